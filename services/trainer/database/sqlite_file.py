"""What is done with a SQLite file as a whole: copy it, check it, and give it the content of another one.

A write here is one transaction of SQLite, as everywhere else. So a kill at any moment leaves the file as it was, or as
it has to be, and whoever opens it next sees which.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from services.repository.disk import replacing, sync_file, sync_folder
from services.trainer.database.database import explain
from services.trainer.database.engine import LOCK_SECONDS
from services.trainer.errors import BrokenData, StorageFailed

# What SQLite keeps beside a file while it is in use.
WAL, SHARED_MEMORY, JOURNAL = "-wal", "-shm", "-journal"
# How long to wait for another process that has the file open.
ALONE_SECONDS = 1.0
# The file holds what people said, so other users of the machine cannot read a copy of it.
PRIVATE = 0o600
_DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


def copy_compactly(source: Path, target: Path) -> None:
    """Write what a file holds now into a new one, without what was deleted. Others may use the file meanwhile.

    Raises:
        sqlite3.Error, OSError: see `sqlite_errors`.

    """
    target.touch(PRIVATE, exist_ok=False)
    try:
        with contextlib.closing(_connect(source, "rw")) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
        sync_file(target)
    finally:
        _beside(target, JOURNAL).unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that nobody writes, and that stays as it is.

    Raises:
        BrokenData: it is no file of SQLite, it is damaged, or a part of its content is in another file.

    """
    if not path.is_file():
        raise BrokenData(f"there is no file {path}")
    wal = _beside(path, WAL)
    if wal.exists() and wal.stat().st_size:
        raise BrokenData(
            f"{path} is the file of a database in use: its newest rows are in {wal.name}; "
            "make backups with `moodfood backup`"
        )
    with sqlite_errors(f"read {path}"), contextlib.closing(_connect(path, "ro&immutable=1")) as connection:
        yield connection


def find_damage(connection: sqlite3.Connection) -> str:
    """Return the first problem that a look at every page finds; empty when there is none."""
    try:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[-1]


def replace_content(path: Path, source: Path) -> Path | None:
    """Give a file the content of another one, in one transaction. Nobody else may have it open.

    The content that it had is kept beside it. A file that is too damaged for a transaction is renamed instead.

    Args:
        path: the file; it need not be there.
        source: a file that nobody writes.

    Returns:
        where the content from before is now; None when there was none.

    Raises:
        StorageFailed: another process has the file open, or a disk refused. The file is as it was.

    """
    if not path.exists():
        _move_away(path)
        _put_in_place(path, source)
        return None
    kept = _dated(path)
    try:
        with sqlite_errors(f"restore {path.name}"), _alone(path) as target:
            with replacing(kept) as temporary:
                temporary.touch(PRIVATE)
                with contextlib.closing(sqlite3.connect(temporary)) as copy:
                    target.backup(copy)
                sync_file(temporary)
            with contextlib.closing(_connect(source, "ro&immutable=1")) as content:
                content.backup(target)
    except BrokenData:
        kept = _move_away(path)
        _put_in_place(path, source)
    return kept


def check_unused(path: Path) -> None:
    """Raise StorageFailed when a process has a file open. Of a damaged file nobody can tell."""
    if path.exists():
        with contextlib.suppress(BrokenData), sqlite_errors(f"open {path}"), _alone(path):
            pass


@contextlib.contextmanager
def sqlite_errors(doing: str) -> Iterator[None]:
    """Turn what SQLite or the system refuses inside the block into BrokenData for damage, and StorageFailed else."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _is_damage(error):
            raise BrokenData(f"cannot {doing}: the file is damaged or is no database ({error})") from error
        problem = "the disk is full" if "is full" in str(error) else explain(str(error))
        raise StorageFailed(f"cannot {doing}: {problem}") from error
    except OSError as error:
        raise StorageFailed(f"cannot {doing}: {error.strerror or type(error).__name__}") from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that no other process has open, and keep all others out until the block ends.

    Its WAL becomes a part of the file. Raises StorageFailed when another process has it open.
    """
    with contextlib.closing(_connect(path, "rw", ALONE_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchone()
            # SQLite refuses to leave the WAL mode while anybody else has the file open.
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise StorageFailed(f"a process has {path} open; stop the trainer, then try again") from error
        yield connection


def _connect(path: Path, mode: str, seconds: float = LOCK_SECONDS) -> sqlite3.Connection:
    """Open a file that is there; SQLite by itself would make one."""
    uri = f"file:{quote(str(path.resolve()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)


def _put_in_place(path: Path, source: Path) -> None:
    with sqlite_errors(f"restore {path.name}"), replacing(path) as temporary:
        temporary.touch(PRIVATE)
        shutil.copyfile(source, temporary)
        sync_file(temporary)


def _move_away(path: Path) -> Path:
    """Keep a file, if there is one, under a dated name too, and move away what SQLite keeps beside it."""
    kept = _dated(path)
    with sqlite_errors(f"keep {path.name}"):
        if path.exists():
            # The file itself stays until the new one takes its place, so there is one at every moment.
            kept.hardlink_to(path)
        for suffix in (WAL, JOURNAL):
            if _beside(path, suffix).exists():
                _beside(path, suffix).replace(_beside(kept, suffix))
        _beside(path, SHARED_MEMORY).unlink(missing_ok=True)
        sync_folder(path.parent)
    return kept


def _dated(path: Path) -> Path:
    """Return the name under which a file is kept that is replaced now."""
    name = f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(path.with_name(free) for free in names if not path.with_name(free).exists())


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(_DAMAGED)
