"""`moodfood backup`, `restore`, `doctor` and `migrate`: upkeep of what the trainer stores. They need no service."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.arguments import Json
from services.cli.connection import answers
from services.cli.output import FAILED, fail, note, one_line_errors, print_facts, print_json, print_line, print_table
from services.trainer.database.database import Database
from services.trainer.database.leases import CHAMPION, RUN, SCHEDULE, Leases
from services.trainer.database.migrate import migrate as create_tables
from services.trainer.errors import TrainerError
from services.trainer.settings import Settings
from services.transport.logs import configure_logs
from services.transport.settings import load_settings

UNKNOWN = "unknown, because no replaced database can be read; forget those people again"


def backup(
    file: Annotated[Path, typer.Argument(help="The new file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Copy the trainer's database into a file, also while the trainer runs, and check the copy.

    The models, the examples and the query logs are not in it; docs/operations.md says how to back them up.
    """
    from services.trainer.upkeep.backup import back_up

    with one_line_errors(TrainerError), _database() as (_, database):
        done = back_up(database, file, overwrite=force)
    _show({"file": str(done.file), "bytes": done.size_bytes, "migration": done.revision, **done.rows}, as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `moodfood backup` wrote.")], as_json: Json = False
) -> None:
    """Put a backup in the place of the trainer's database. Stop the trainer first.

    The replaced database is kept beside it.
    """
    from services.trainer.upkeep.restore import restore as put_back

    with one_line_errors(TrainerError), _database() as (settings, database):
        if answers(settings.trainer):
            fail(f"a trainer answers at {settings.trainer}; stop it, then try again")
        done = put_back(database, file)
    facts = {"restored": str(done.backup.file), "migration": done.backup.revision, **done.backup.rows}
    if done.kept is not None:
        facts["replaced database"] = str(done.kept)
    facts["erasures made again"] = UNKNOWN if done.erasures is None and not as_json else done.erasures
    _show(facts, as_json)


def doctor(
    mend: Annotated[bool, typer.Option("--mend", help="Mend what is safe to mend.")] = False, as_json: Json = False
) -> None:
    """Check that database, registry and alias agree; exit with 1 when something is wrong and was not mended.

    It reads every version. The trainer may run meanwhile.
    """
    from services.trainer.__main__ import Trainer
    from services.trainer.upkeep.doctor import Stores, diagnose
    from services.trainer.upkeep.old_files import Folders, has_old_files

    configure_logs("CRITICAL")
    settings = load_settings(Settings)
    with one_line_errors(TrainerError):
        trainer = Trainer(settings)
        stores = Stores(
            trainer.database,
            trainer.registry,
            Leases(trainer.database),
            trainer.runs,
            trainer.erasure,
            trainer.runner.recover,
            partial(has_old_files, Folders(settings.data_dir, settings.models_dir)),
        )
        with closing(trainer.database):
            found = asyncio.run(diagnose(stores, mend=mend))
    states = (("mended", found.mended), ("wrong", found.wrong), ("note", found.notes))
    rows = [
        {"check": problem.check, "state": state, "found": problem.sentence, "do": problem.advice}
        for state, problems in states
        for problem in problems
    ]
    if as_json:
        print_json({"healthy": not found.wrong, "found": rows})
    else:
        print_facts({check: _summarise(check, rows) for check in found.checks})
        for row in rows:
            print_line(f"{row['state']}: {row['found']}{'; ' if row['do'] else ''}{row['do']}")
    if found.wrong:
        raise typer.Exit(FAILED)


def migrate(as_json: Json = False) -> None:
    """Move the files of an earlier release into the database. Stop all services first.

    Its files are put into the folder `moved` of the data folder. A second call goes on where the first one was ended.
    """
    from services.trainer.upkeep.moving import move_old_files
    from services.trainer.upkeep.old_files import Folders

    with one_line_errors(TrainerError, OSError), _database("WARNING") as (settings, database):
        create_tables(database)
        _check_no_trainer_runs(settings, database)
        folders = Folders(settings.data_dir, settings.models_dir)
        report = move_old_files(database, folders, settings.model, settings.keep_queries, settings.models_url)
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


def _summarise(check: str, rows: Sequence[dict[str, str]]) -> str:
    return ", ".join(dict.fromkeys(row["state"] for row in rows if row["check"] == check)) or "ok"


@contextmanager
def _database(log_level: str = "ERROR") -> Iterator[tuple[Settings, Database]]:
    configure_logs(log_level)
    settings = load_settings(Settings)
    with closing(Database(settings.database_location)) as database:
        yield settings, database


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({name.replace(" ", "_"): value for name, value in facts.items()})
    else:
        print_facts(facts)


def _check_no_trainer_runs(settings: Settings, database: Database) -> None:
    held = [name for name in (RUN, CHAMPION, SCHEDULE) if Leases(database).is_held(name)]
    if held or answers(settings.trainer):
        fail("a trainer is running; stop all services, then try again")
