"""Brings a database to the state that this program needs, forward only, before anything else uses it.

One transaction holds a lock and all steps. So two trainers that start at once migrate once, and a migration that dies
half-way leaves the database as it was.
"""

from pathlib import Path

import structlog
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from services.trainer.database.database import Database
from services.trainer.errors import BrokenData
from services.trainer.storage import storage_errors

# The newest migration in `migrations/versions`; a test compares the two. A migration that was released never changes.
NEWEST = "0001"
_LOCK_KEY = 7_305_101
_MIGRATIONS = Path(__file__).parent / "migrations"

_log = structlog.get_logger()


def migrate(database: Database) -> None:
    """Create the tables, or change them to what this program needs.

    Raises:
        BrokenData: the database is newer than this program.
        StorageFailed: the database cannot be reached or changed; it is as it was before.

    """
    if database.file is not None:
        with storage_errors("make the folder of the database"):
            database.file.parent.mkdir(parents=True, exist_ok=True)
    with database.write() as connection:
        if not database.is_embedded:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        found = read_revision(connection)
        if found == NEWEST:
            return
        _upgrade(connection, found)
        _log.info("database migrated", before=found or "empty", now=NEWEST)


def read_revision(connection: Connection) -> str:
    """Return the migration that a database has; empty when it has no tables of this program."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""


def check_known(revision: str) -> None:
    """Raise BrokenData when a database has a migration that this program does not know."""
    if revision in {"", NEWEST}:
        return
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    try:
        ScriptDirectory(str(_MIGRATIONS)).get_revision(revision)
    except CommandError as error:
        raise BrokenData(
            f"the database has migration {revision}, which is newer than this program, whose newest is {NEWEST}; "
            "start the newer program, or restore a backup from before"
        ) from error


def _upgrade(connection: Connection, found: str) -> None:
    check_known(found)
    # Imported here, because it takes a quarter of a second and nearly every start needs no migration.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except SQLAlchemyError:
        _log.exception("a migration failed; the database is as it was before")
        raise
