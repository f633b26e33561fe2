"""A spool: query records that wait for the trainer, in a SQLite file in a folder that is named by a random id.

Every record gets a position, one more than the record before it. SQLite gives a position away once: also after a kill,
and after a loss of power, because every write waits for the disk. Records that the trainer has stored are deleted. When
the spool is too large, its oldest records are dropped and counted.
"""

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from moodfood.events.v1.events_pb2 import QueryRecord

RECORDS_FILE = "records.db"
MAX_BATCH_RECORDS = 500
MAX_BATCH_BYTES = 1024 * 1024
# Which share of a full spool is dropped at once, so that not every write has to drop something.
DROPPED_SHARE = 1 / 16

_SETTINGS = (
    # Nobody else opens the file, so no file is needed in which processes agree.
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    # A deleted text is overwritten in the file.
    "PRAGMA secure_delete=ON",
    "CREATE TABLE IF NOT EXISTS records (position INTEGER PRIMARY KEY AUTOINCREMENT, content BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS dropped (count INTEGER NOT NULL)",
)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Batch:
    """Records of a spool whose positions follow one another; `position` is that of the last.

    `dropped` counts the records of the spool that were lost so far.
    """

    spool_id: str
    position: int
    records: Sequence[QueryRecord]
    dropped: int


class Spool:
    """One spool, whose folder this process has locked. Every method raises OSError when the disk refuses."""

    def __init__(self, folder: Path, descriptor: int, max_bytes: int) -> None:
        """Open a spool whose folder is locked by the descriptor, or begin it. Its records may take so many bytes."""
        self.spool_id = folder.name
        self._folder = folder
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._full = False
        self._acknowledged = 0
        with self._disk_errors():
            # One thread at a time uses it, but not always the same one.
            self._database = sqlite3.connect(folder / RECORDS_FILE, isolation_level=None, check_same_thread=False)
            for statement in _SETTINGS:
                self._database.execute(statement)
            count = "SELECT COUNT(*), COALESCE(SUM(LENGTH(content)), 0) FROM records"
            self.waiting, self.size = self._database.execute(count).fetchone()
            (self.dropped,) = self._database.execute("SELECT COALESCE(SUM(count), 0) FROM dropped").fetchone()

    def append(self, contents: Sequence[bytes]) -> None:
        """Add serialised records: all, or none. Those that the disk did not take are counted as dropped."""
        try:
            with self._transaction():
                self._database.executemany("INSERT INTO records (content) VALUES (?)", ((c,) for c in contents))
                size = self.size + sum(map(len, contents))
                oldest = self._list_oldest(size) if size > self._max_bytes else []
                self._delete(position for position, _ in oldest)
                self._write_dropped(self.dropped + len(oldest))
        except OSError:
            self.count_dropped(len(contents))
            raise
        self.dropped += len(oldest)
        self.waiting += len(contents) - len(oldest)
        self.size = size - sum(length for _, length in oldest)
        if oldest and not self._full:
            # Once, and not for all that follow; the counts say how many they are.
            _log.warning("the spool is full: its oldest records are dropped", max_bytes=self._max_bytes)
            self._full = True

    def read(self) -> Batch | None:
        """Return the oldest records that wait; None if there are none."""
        if not self.waiting:
            return None
        contents, last, size = list[bytes](), 0, 0
        with self._disk_errors():
            rows = self._database.execute(
                "SELECT position, content FROM records WHERE position > ? ORDER BY position LIMIT ?",
                (self._acknowledged, MAX_BATCH_RECORDS),
            )
            for position, content in rows:
                if contents and (position != last + 1 or size + len(content) > MAX_BATCH_BYTES):
                    break
                contents.append(content)
                last, size = position, size + len(content)
        if not contents:
            return None
        return Batch(self.spool_id, last, [QueryRecord.FromString(content) for content in contents], self.dropped)

    def acknowledge(self, position: int) -> None:
        """Delete the records up to a position, inclusive. If the disk refuses, they stay but are not read again."""
        self._full = False
        with self._disk_errors():
            rows = self._database.execute(
                "SELECT position, LENGTH(content) FROM records WHERE position <= ?", (position,)
            ).fetchall()
        # Not the given position: a wrong one must not hide records that come later.
        self._acknowledged = max((found for found, _ in rows), default=self._acknowledged)
        self._remove_rows(rows)

    def forget(self, is_doomed: Callable[[QueryRecord], bool]) -> int:
        """Delete records. Returns how many."""
        with self._disk_errors():
            rows = self._database.execute("SELECT position, content FROM records")
            doomed = [(position, len(c)) for position, c in rows if is_doomed(QueryRecord.FromString(c))]
        self._remove_rows(doomed)
        with self._disk_errors():
            # What was deleted earlier is gone from the log of SQLite too.
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(doomed)

    def count_dropped(self, count: int) -> None:
        """Count records that were lost. A disk that refuses keeps the count until the next start only."""
        if count:
            self.dropped += count
            with contextlib.suppress(OSError), self._transaction():
                self._write_dropped(self.dropped)

    def close(self) -> None:
        """Close the file and free the lock."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the folder and free the lock."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def _list_oldest(self, size: int) -> list[tuple[int, int]]:
        """Return positions and bytes of the oldest records, without which a spool of this size is not full."""
        excess, oldest = size - self._max_bytes * (1 - DROPPED_SHARE), list[tuple[int, int]]()
        for position, length in self._database.execute(
            "SELECT position, LENGTH(content) FROM records ORDER BY position"
        ):
            if excess <= 0:
                break
            oldest.append((position, length))
            excess -= length
        return oldest

    def _remove_rows(self, rows: Sequence[tuple[int, int]]) -> None:
        """Delete records, given by their positions and bytes."""
        if rows:
            with self._transaction():
                self._delete(position for position, _ in rows)
            self.waiting -= len(rows)
            self.size -= sum(length for _, length in rows)

    def _delete(self, positions: Iterable[int]) -> None:
        self._database.executemany("DELETE FROM records WHERE position = ?", ((position,) for position in positions))

    def _write_dropped(self, count: int) -> None:
        self._database.execute("DELETE FROM dropped")
        self._database.execute("INSERT INTO dropped VALUES (?)", (count,))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._disk_errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Raise OSError for what SQLite cannot do.

        FileNotFoundError says that somebody has removed the folder; SQLite would go on in the deleted file.
        """
        if not self._folder.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from error
