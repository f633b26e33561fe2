"""`moodfood backup`, `restore` and `doctor`: upkeep of what the trainer stores. They need no running service."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.arguments import Json
from services.cli.connection import answers
from services.cli.output import FAILED, fail, print_facts, print_json, print_line
from services.trainer.database.database import Database
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

    with _one_line_errors(), _database() as (_, database):
        done = back_up(database, file, overwrite=force)
    _show({"file": str(done.file), "bytes": done.size_bytes, "migration": done.revision, **done.rows}, as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `moodfood backup` wrote.")], as_json: Json = False
) -> None:
    """Put a backup in the place of the trainer's database. Stop the trainer first.

    The replaced database is kept beside it.
    """
    from services.trainer.upkeep.restore import restore as put_back

    with _one_line_errors(), _database() as (settings, database):
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
    from services.trainer.database.leases import Leases
    from services.trainer.upkeep.doctor import Stores, diagnose
    from services.trainer.upkeep.old_files import Folders, has_old_files

    configure_logs("CRITICAL")
    settings = load_settings(Settings)
    with _one_line_errors():
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


def _summarise(check: str, rows: Sequence[dict[str, str]]) -> str:
    return ", ".join(dict.fromkeys(row["state"] for row in rows if row["check"] == check)) or "ok"


@contextmanager
def _database() -> Iterator[tuple[Settings, Database]]:
    configure_logs("ERROR")
    settings = load_settings(Settings)
    with closing(Database(settings.database_location)) as database:
        yield settings, database


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except TrainerError as error:
        fail(str(error))


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({name.replace(" ", "_"): value for name, value in facts.items()})
    else:
        print_facts(facts)
