"""Makes and checks backups of the embedded database, while the trainer runs or not.

A backup is one SQLite file with everything that the database held at one moment. It holds no models: their versions
never change, they are larger than the database, and in a fleet they are in a bucket, which has backups of its own. The
trainer adopts what it finds beside a restored database, and trains a first model when it finds nothing.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from services.repository.disk import replacing
from services.trainer.database.database import Database
from services.trainer.database.migrate import check_known
from services.trainer.database.sqlite_file import copy_compactly, find_damage, reading, sqlite_errors
from services.trainer.errors import BrokenData, NotSupported, StorageFailed

# The tables whose rows are counted, for people who want to see what a backup holds.
COUNTED = ("feedback", "queries", "review_items", "runs", "versions", "history")
_OURS = ("alembic_version", "counters", *COUNTED)


@dataclass(frozen=True)
class Backup:
    """A backup that was checked.

    Attributes:
        file: where it is.
        size_bytes: its size.
        revision: the migration that it has.
        rows: numbers of rows, by table.

    """

    file: Path
    size_bytes: int
    revision: str
    rows: dict[str, int]


def back_up(database: Database, target: Path, *, overwrite: bool = False) -> Backup:
    """Write a backup and check it. The file appears when it is complete.

    Args:
        database: the trainer's database; others may use it meanwhile.
        target: the new file.
        overwrite: whether a file that is there may be replaced.

    Raises:
        NotSupported: the database is a server.
        BrokenData: there is no database, it is damaged or not ours, or the target cannot be used.
        StorageFailed: a disk refused. No file was written or replaced.

    """
    source = find_file(database, "back it up with pg_dump")
    if not source.is_file():
        raise BrokenData(f"there is no database {source}; check MOODFOOD_DATA_DIR")
    _check_target(source, target, overwrite)
    with sqlite_errors(f"back up {source} to {target}"), replacing(target) as temporary:
        copy_compactly(source, temporary)
        found = check_backup(temporary)
    return Backup(target, found.size_bytes, found.revision, found.rows)


def check_backup(path: Path) -> Backup:
    """Read the whole of a backup.

    Raises:
        BrokenData: it is not there, is no database of MoodFood, is damaged, or is newer than this program.

    """
    with reading(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables.issuperset(_OURS):
            raise BrokenData(f"{path} is a database, but not one of MoodFood")
        revision = _read_one(connection, "SELECT version_num FROM alembic_version")
        check_known(revision)
        damage = find_damage(connection)
        if damage:
            raise BrokenData(f"{path} is damaged ({damage}); use another backup")
        rows = {table: int(_read_one(connection, f"SELECT count(*) FROM {table}")) for table in COUNTED}  # noqa: S608
    return Backup(path, path.stat().st_size, revision, rows)


def find_file(database: Database, otherwise: str) -> Path:
    """Return the file of an embedded database. Raises NotSupported for a server, and says what to do `otherwise`."""
    if database.file is None:
        raise NotSupported(f"the database is a PostgreSQL server, which has tools of its own; {otherwise}")
    return database.file


def _check_target(source: Path, target: Path, overwrite: bool) -> None:  # noqa: FBT001 - from the command line
    try:
        if not target.absolute().parent.is_dir():
            raise BrokenData(f"there is no folder {target.absolute().parent}; make it, or name another file")
        if target.is_dir():
            raise BrokenData(f"{target} is a folder; name a file")
        if not target.exists():
            return
        if target.samefile(source):
            raise BrokenData(f"{target} is the database itself; name another file")
    except OSError as error:
        raise StorageFailed(f"cannot write {target}: {error.strerror}") from error
    if not overwrite:
        raise BrokenData(f"there is a file {target} already; name another one, or replace it with --force")


def _read_one(connection: sqlite3.Connection, query: str) -> str:
    row = connection.execute(query).fetchone()
    return str(row[0]) if row else ""
