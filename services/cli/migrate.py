"""`moodfood migrate`: moves the files of an earlier release into the database. It needs no running service."""

from services.cli.arguments import Json
from services.cli.connection import answers
from services.cli.output import fail, note, print_json, print_line, print_table
from services.trainer.database.database import Database
from services.trainer.database.leases import CHAMPION, RUN, SCHEDULE, Leases
from services.trainer.database.migrate import migrate as create_tables
from services.trainer.errors import TrainerError
from services.trainer.settings import Settings
from services.transport.logs import configure_logs
from services.transport.settings import load_settings


def migrate(as_json: Json = False) -> None:
    """Move the files of an earlier release into the database. Stop all services first.

    Its files are put into the folder `moved` of the data folder. A second call goes on where the first one was ended.
    """
    from services.trainer.upkeep.moving import move_old_files
    from services.trainer.upkeep.old_files import Folders

    configure_logs("WARNING")
    settings = load_settings(Settings)
    try:
        database = Database(settings.database_location)
        create_tables(database)
        _check_no_trainer_runs(settings, database)
        folders = Folders(settings.data_dir, settings.models_dir)
        report = move_old_files(database, folders, settings.model, settings.keep_queries, settings.models_url)
        database.close()
    except (TrainerError, OSError) as error:
        fail(str(error))
    kinds = {kind: (read, report.stored[kind], report.unreadable[kind]) for kind, read in report.read.items() if read}
    for problem in report.problems:
        note(f"cannot read {problem}")
    if as_json:
        counts = {kind: dict(zip(("read", "stored", "unreadable"), row, strict=True)) for kind, row in kinds.items()}
        print_json({"moved": counts, "problems": report.problems, "files": report.files})
    elif report.files:
        print_table(("what", "read", "stored", "cannot be read"), [(kind, *row) for kind, row in kinds.items()])
        print_line(f"{report.files} files are in {settings.data_dir / 'moved'} now, and nothing reads them any more")
        print_line("what people ask to forget stays in them: delete the folder when you have seen that all is well")
    else:
        print_line("nothing is left to move")


def _check_no_trainer_runs(settings: Settings, database: Database) -> None:
    held = [name for name in (RUN, CHAMPION, SCHEDULE) if Leases(database).is_held(name)]
    if held or answers(settings.trainer):
        fail("a trainer is running; stop all services, then try again")
