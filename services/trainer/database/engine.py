"""How this program connects to a database: what its URL may be, and how SQLite and PostgreSQL are set up."""

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from services.trainer.errors import BrokenData

# How long a writer waits for another one, in seconds.
LOCK_SECONDS = 10
CONNECT_SECONDS = 5
# What a transaction of a dead connection may hold up others for, in seconds.
STATEMENT_SECONDS = 60
POOL_SIZE = 8

SQLITE, POSTGRESQL = "sqlite", "postgresql"
# The option of a connection whose transaction writes.
WRITING = {"moodfood_writing": True}


def read_url(url: str | URL) -> URL:
    """Return a database URL with the driver that this program uses.

    Raises:
        BrokenData: it is not the URL of a SQLite file or a PostgreSQL database.

    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # A port that is no number is a ValueError.
        parsed = None
    backend = parsed.get_backend_name() if parsed is not None else ""
    # In memory, each connection would have a database of its own.
    is_in_memory = backend == SQLITE and parsed is not None and parsed.database in {None, "", ":memory:"}
    if parsed is None or is_in_memory or backend not in {SQLITE, POSTGRESQL, "postgres"}:
        raise BrokenData(
            "MOODFOOD_DATABASE_URL is not the URL of a database; use postgresql://user:password@host:5432/database, "
            "or leave it empty for a file in the data folder"
        )
    if backend == SQLITE:
        return parsed.set(drivername=SQLITE)
    return parsed.set(drivername="postgresql+psycopg")


def make_engine(url: URL) -> Engine:
    """Return the engine of a database. It connects when it is first used. Raises BrokenData."""
    try:
        if url.get_backend_name() == SQLITE:
            return _make_sqlite_engine(url)
        return create_engine(
            url,
            pool_size=POOL_SIZE,
            max_overflow=POOL_SIZE,
            pool_timeout=LOCK_SECONDS,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "moodfood trainer",
                "options": f"-c lock_timeout={LOCK_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s "
                f"-c idle_in_transaction_session_timeout={STATEMENT_SECONDS}s",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
            },
        )
    except (ArgumentError, NoSuchModuleError) as error:
        raise BrokenData("MOODFOOD_DATABASE_URL cannot be used; check its user, host and options") from error


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Switch a file to WAL mode. SQLite does not wait by itself while another process switches the same new file."""
    given_up_at = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > given_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _make_sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=LOCK_SECONDS,
        hide_parameters=True,
        connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver would begin transactions by itself, and too late; `begin` below does it.
        connection.isolation_level = None
        cursor = connection.cursor()
        _switch_to_wal(cursor)
        # With secure_delete, what people said is no longer in the file when it was deleted.
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("moodfood_writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine
