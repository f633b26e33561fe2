"""Migrations: an empty database gets every table, once, and a newer database is refused."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text, update

from services.trainer.database import migrate as migrating
from services.trainer.database.database import Database, file_url, last_position
from services.trainer.database.migrate import NEWEST, migrate, read_revision
from services.trainer.database.tables import COUNTERS, counters, metadata
from services.trainer.errors import BrokenData, StorageFailed
from tests.databases import PostgresServer

MIGRATIONS = Path(migrating.__file__).parent / "migrations"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    url = file_url(tmp_path / "new" / "empty.db")
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.create())
    with closing(Database(url)) as database:
        yield database


def test_migrated_database_has_exactly_the_declared_tables(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert [0] * len(COUNTERS) == [last_position(connection, name) for name in COUNTERS]


def test_newest_migration_is_the_one_that_the_program_names() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [NEWEST]


def test_two_trainers_that_start_at_once_migrate_once(empty: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _migrate_as_another_trainer(empty), range(2)))
    with empty.read() as connection:
        assert read_revision(connection) == NEWEST
        assert len(COUNTERS) == connection.scalar(text("SELECT count(*) FROM counters"))


def test_migration_that_dies_half_way_leaves_the_database_as_it_was(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.bulk_insert", _die)
        with pytest.raises(RuntimeError, match="killed"):
            migrate(empty)
    with empty.read() as connection:
        assert inspect(connection).get_table_names() == []
    migrate(empty)
    with empty.read() as connection:
        assert read_revision(connection) == NEWEST


def test_database_of_a_newer_program_is_refused_and_unchanged(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BrokenData, match="migration 9999, which is newer than this program"):
        migrate(database)
    with database.read() as connection:
        assert read_revision(connection) == "9999"


def test_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        closing(Database(file_url(tmp_path / "file" / "moodfood.db"))) as database,
        pytest.raises(StorageFailed, match="cannot make the folder of the database"),
    ):
        migrate(database)


def test_read_only_database_is_refused_in_words(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        with pytest.raises(StorageFailed, match=r"^the database is read-only, so nothing was stored"):
            _write_to_read_only(database)
        with database.read() as connection:
            assert last_position(connection, COUNTERS[0]) == 0


def _write_to_read_only(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("PRAGMA query_only=1" if database.is_embedded else "SET TRANSACTION READ ONLY"))
        connection.execute(update(counters).values(value=1))


def _migrate_as_another_trainer(database: Database) -> None:
    with closing(Database(database.url)) as own:
        migrate(own)


def _die(*_: object, **__: object) -> None:
    raise RuntimeError("killed")
