"""The one way to the database, which is a SQLite file by default and a PostgreSQL server when a URL names one.

Everything is stored through two blocks, `read` and `write`. A write is one transaction: it is on disk when its block
has ended, or it never happened. What the database refuses is StorageFailed, whatever the driver calls it.

On SQLite, a write takes the lock of the file at its beginning. So two writers wait for one another and never have to
give up half-way. Readers never wait: the file is in WAL mode.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Table, func, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import BigInteger

from services.trainer.database.engine import POSTGRESQL, SQLITE, WRITING, make_engine, read_url
from services.trainer.database.tables import counters
from services.trainer.errors import StorageFailed

DATABASE_FILE = "moodfood.db"
# So many values fit into one statement of every SQLite.
ROWS_AT_ONCE = 500
# Far more rows fit into one value of JSON; this bounds its size.
ROWS_OF_JSON = 5000

DAMAGED = "the file of the database is damaged"
# What an operator reads in the log. Callers can do nothing about it.
_RESTORE = "stop the trainer, and restore a backup with `moodfood restore`"
_KNOWN_PROBLEMS = {
    "is locked": "another process holds the database",
    "lock timeout": "another process holds the database",
    "full": "the disk of the database is full",
    "No space left": "the disk of the database is full",
    "readonly": "the database is read-only",
    "read-only": "the database is read-only",
    "malformed": DAMAGED,
    "not a database": DAMAGED,
}
_OTHER_PROBLEM = "the database cannot be reached or used"

T = TypeVar("T")

_log = structlog.get_logger()


class now_micros(GenericFunction[int]):  # noqa: N801 - the name of a function in SQL
    """The clock of the database in microseconds since 1970. All trainers share it, so their own clocks may differ."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_micros, SQLITE)
def _now_on_sqlite(*_: Any, **__: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"


@compiles(now_micros, POSTGRESQL)
def _now_on_postgresql(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch from clock_timestamp()) * 1000000 AS BIGINT)"


class Database:
    """Opens transactions. Threads may share it; it connects when it is first used."""

    def __init__(self, url: str | URL) -> None:
        self.url = read_url(url)
        self._engine = make_engine(self.url)

    @property
    def is_embedded(self) -> bool:
        """Whether this is a SQLite file and not a server."""
        return self.url.get_backend_name() == SQLITE

    @property
    def file(self) -> Path | None:
        """The file of an embedded database; None when it is a server."""
        return Path(self.url.database) if self.is_embedded and self.url.database else None

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads.

        Raises:
            StorageFailed: the database cannot be reached or cannot be read.

        """
        with _storage_errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes. It is stored when the block has ended without an exception.

        Raises:
            StorageFailed: nothing was stored.
            IntegrityError: nothing was stored, because a row has the same key. The caller says what that means.

        """
        with _storage_errors(), self._engine.connect() as connection:
            connection.execution_options(**WRITING)
            with connection.begin():
                yield connection

    def empty_log(self) -> None:
        """Let an embedded database forget how rows were before they were deleted. A server does that by itself.

        While somebody reads for long, or the disk refuses, the log stays; the database empties it in its own time.
        """
        if self.is_embedded:
            with contextlib.suppress(sqlite3.Error, SQLAlchemyError):
                connection = self._engine.raw_connection()
                with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
                    # Not in a transaction, so not through `write`.
                    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()


def file_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return URL.create(SQLITE, database=str(path)).render_as_string()


def next_positions(connection: Connection, counter: str, count: int = 1) -> range:
    """Take the next positions of a counter, in the order in which transactions are stored.

    The row of the counter stays locked until the transaction ends. So whoever sees position n also sees every lower
    one that was ever stored: a reader can remember "all up to n".
    """
    if not count:
        return range(0)
    connection.execute(update(counters).where(counters.c.name == counter).values(value=counters.c.value + count))
    last = connection.scalar(select(counters.c.value).where(counters.c.name == counter))
    if last is None:
        raise StorageFailed(f"the database has no counter {counter!r}; run `moodfood doctor`")
    return range(last - count + 1, last + 1)


def raise_counters(connection: Connection, lowest: Mapping[str, int]) -> None:
    """Let counters give away only positions above some. A counter that is missing is made; one that is higher stays."""
    for name, value in lowest.items():
        found = connection.scalar(select(counters.c.value).where(counters.c.name == name).with_for_update())
        if found is None:
            connection.execute(counters.insert().values(name=name, value=value))
        elif found < value:
            connection.execute(update(counters).where(counters.c.name == name).values(value=value))


def lock_counters(connection: Connection, *names: str) -> None:
    """Keep other writers away from what some counters number until the transaction ends; they wait.

    Everybody names the counters in the order of COUNTERS, so nobody waits for one another in a circle.
    """
    for name in names:
        connection.execute(select(counters.c.value).where(counters.c.name == name).with_for_update())


def in_parts(values: Sequence[T], size: int = ROWS_AT_ONCE) -> Iterator[Sequence[T]]:
    """Yield the values in parts that fit into one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def insert_many(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows with a value for every column.

    PostgreSQL gets them in one statement, which takes a fifth of the time of a statement for each row.
    """
    if not rows:
        return
    if connection.dialect.name == SQLITE:
        connection.execute(table.insert(), rows)
        return
    name = table.name
    statement = f"INSERT INTO {name} SELECT * FROM json_populate_recordset(NULL::{name}, CAST(:rows AS json))"  # noqa: S608 - a table of ours
    for part in in_parts(rows, ROWS_OF_JSON):
        connection.execute(text(statement), {"rows": json.dumps(part, ensure_ascii=False)})


def last_position(connection: Connection, counter: str) -> int:
    """Return the highest position that a counter gave away; 0 when it gave none."""
    return connection.scalar(select(counters.c.value).where(counters.c.name == counter)) or 0


def database_time(connection: Connection) -> int:
    """Return the time of the database in microseconds since 1970."""
    return int(connection.scalar(select(func.now_micros())) or 0)


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn what a driver raises into StorageFailed. What it says goes to the log, never to a caller.

    The engine hides the values of a statement from the log too: people's words could not be deleted from there.
    """
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        problem = _first_line(error)
        explained = explain(problem)
        if explained == DAMAGED:
            _log.error("the database refused", problem=problem, do=_RESTORE)
            raise StorageFailed(f"{explained}, so nothing was stored") from error
        _log.warning("the database refused", problem=problem)
        raise StorageFailed(f"{explained}, so nothing was stored; try again in a few seconds") from error


def explain(problem: str) -> str:
    """Return what a driver's message means, in words for an operator."""
    return next((sentence for words, sentence in _KNOWN_PROBLEMS.items() if words in problem), _OTHER_PROBLEM)


def _first_line(error: SQLAlchemyError) -> str:
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)
