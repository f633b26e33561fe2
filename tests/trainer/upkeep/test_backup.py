"""Backups of the embedded database, and restored ones among models, replicas and people that are newer."""

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import select, text

from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.database.leases import RUN, Leases
from services.trainer.database.tables import queries
from services.trainer.dataset.words import text_key
from services.trainer.errors import BrokenData, NotSupported, StorageFailed
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.erasures import Erasures
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.upkeep.backup import back_up, check_backup
from services.trainer.upkeep.restore import Restored, restore
from tests.conftest import ROOT
from tests.fakes import FakeReplica, running
from tests.full_disk import disk_of
from tests.query_records import SPOOL, keep, make_record, read_feedback
from tests.registries import history_of, promote, version_files
from tests.trainer.runs.runners import passes

pytestmark = pytest.mark.anyio

SERVER = "postgresql://moodfood:secret@127.0.0.1:1/moodfood"


@pytest.fixture
def path(migrated_sqlite: Path, tmp_path: Path) -> Path:
    """The file of the database, in a data folder."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(migrated_sqlite, tmp_path / "data" / DATABASE_FILE))


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(file_url(path))
    yield opened
    opened.close()


def say(database: Database, *texts: str, person: str = "anna") -> None:
    FeedbackStore(database).add([Feedback(said, ("soup",), user_id=person) for said in texts])


def texts_of(database: Database) -> list[str]:
    return [row.text for row in read_feedback(database)]


def restore_closed(database: Database, backup: Path) -> Restored:
    """Restore as when the trainer has stopped."""
    database.close()
    return restore(database, backup)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def spoil(path: Path, at: int = 4096 * 5, count: int = 4096) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xaa" * count)


def test_backup_holds_what_was_stored_and_nothing_that_comes_later(database: Database, tmp_path: Path) -> None:
    say(database, "one", "two")
    keep(database, make_record("q1"))
    target = tmp_path / "backup.db"
    with database.write():  # a writer in the middle of its work
        done = back_up(database, target)
    say(database, "three")
    assert (done.rows["feedback"], done.rows["queries"], done.size_bytes) == (2, 1, target.stat().st_size)
    assert (check_backup(target), list_names(tmp_path)) == (done, ["backup.db", "data"])
    assert target.stat().st_mode & 0o077 == 0
    assert texts_of(Database(file_url(target))) == ["one", "two"]


def test_backup_holds_nothing_of_what_was_deleted(database: Database, path: Path, tmp_path: Path) -> None:
    say(database, *(f"unspeakable words, number {number}" for number in range(500)))
    database.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")  # as in some builds of SQLite
        connection.execute("DELETE FROM feedback")
        connection.commit()
    back_up(database, tmp_path / "backup.db")
    assert b"unspeakable" in path.read_bytes()
    assert b"unspeakable" not in (tmp_path / "backup.db").read_bytes()


def test_backup_replaces_a_file_only_when_asked(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    target.write_text("mine")
    with pytest.raises(BrokenData, match="already; name another one, or replace it with --force"):
        back_up(database, target)
    with disk_of(50_000), pytest.raises(StorageFailed, match=r"cannot back up .* to "):
        back_up(database, target, overwrite=True)
    assert (target.read_text(), list_names(tmp_path)) == ("mine", ["backup.db", "data"])
    back_up(database, target, overwrite=True)
    assert check_backup(target).rows["feedback"] == 0


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("data", "is a folder; name a file"),
        ("nowhere/backup.db", "there is no folder .*nowhere; make it"),
        ("/proc/backup.db", "cannot back up .* to /proc/backup.db: No such file"),
        ("data/moodfood.db", "is the database itself"),
    ],
)
def test_target_that_takes_no_backup_is_told(database: Database, tmp_path: Path, target: str, problem: str) -> None:
    say(database, "one")
    with pytest.raises((BrokenData, StorageFailed), match=problem):
        back_up(database, tmp_path / target, overwrite=True)
    assert texts_of(database) == ["one"]


def test_only_a_database_that_is_there_and_whole_is_backed_up(database: Database, path: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match=r"there is no database .*check MOODFOOD_DATA_DIR"):
        back_up(Database(file_url(tmp_path / "none.db")), tmp_path / "backup.db")
    database.close()
    spoil(path, count=8 * 4096)
    with pytest.raises(BrokenData, match="damaged"):
        back_up(database, tmp_path / "backup.db")
    assert list_names(tmp_path) == ["data"]


def test_server_is_backed_up_by_its_own_tools(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="pg_dump"):
        back_up(Database(SERVER), tmp_path / "backup.db")
    with pytest.raises(NotSupported, match="pg_restore"):
        restore(Database(SERVER), tmp_path / "backup.db")


def not_a_database(file: Path) -> None:
    file.write_text("no database at all " * 500)


def another_database(file: Path) -> None:
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE theirs (a)")


def newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def truncated(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def in_use(file: Path) -> None:
    file.with_name(f"{file.name}-wal").write_bytes(b"rows")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Path.unlink, "there is no file"),
        (not_a_database, "no database"),
        (another_database, "not one of MoodFood"),
        (newer, "migration 9999, which is newer than this program"),
        (truncated, "damaged"),
        (spoil, "damaged"),
        (in_use, "a database in use"),
    ],
)
def test_backup_that_cannot_be_used_changes_nothing(
    database: Database, tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    backup = tmp_path / "backup.db"
    say(database, *(f"text {number}" for number in range(300)))
    back_up(database, backup)
    make(backup)
    before = texts_of(database)
    with pytest.raises(BrokenData, match=problem):
        restore_closed(database, backup)
    assert texts_of(database) == before
    database.close()
    assert list_names(tmp_path / "data") == [DATABASE_FILE]


def test_restored_database_is_the_backup_and_the_replaced_one_is_kept(database: Database, tmp_path: Path) -> None:
    say(database, "one")
    back_up(database, tmp_path / "backup.db")
    say(database, "two")
    done = restore_closed(database, tmp_path / "backup.db")
    assert texts_of(database) == ["one"]
    assert done.kept is not None
    assert texts_of(Database(file_url(done.kept))) == ["one", "two"]
    say(database, "three")
    assert [row.position for row in read_feedback(database)] == [1, 3]
    again = restore_closed(database, tmp_path / "backup.db")
    assert again.kept not in {None, done.kept}


def test_backup_is_restored_where_there_is_no_database(database: Database, tmp_path: Path) -> None:
    say(database, "one")
    back_up(database, tmp_path / "backup.db")
    elsewhere = Database(file_url(tmp_path / "elsewhere" / DATABASE_FILE))
    assert restore(elsewhere, tmp_path / "backup.db").kept is None
    assert texts_of(elsewhere) == ["one"]


@pytest.mark.parametrize("damage", [not_a_database, truncated, spoil])
def test_backup_takes_the_place_of_a_damaged_database(
    database: Database, path: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    say(database, *(f"text {number}" for number in range(300)))
    back_up(database, tmp_path / "backup.db")
    database.close()
    damage(path)
    content = path.read_bytes()
    in_use(path)
    done = restore(database, tmp_path / "backup.db")
    assert len(texts_of(database)) == 300
    assert done.kept is not None
    # The first page says how the file is kept, which may have changed.
    assert done.kept.read_bytes()[100:] == content[100:]
    database.close()
    assert set(list_names(path.parent)) <= {DATABASE_FILE, done.kept.name, f"{done.kept.name}-wal"}


def test_nothing_is_restored_while_somebody_has_the_database_open(database: Database, tmp_path: Path) -> None:
    say(database, "one")
    back_up(database, tmp_path / "backup.db")
    say(database, "two")
    with pytest.raises(StorageFailed, match=r"has .* open; stop the trainer"):
        restore(database, tmp_path / "backup.db")
    assert texts_of(database) == ["one", "two"]


# Restores in a process of its own. The limit on the size of files comes when the replaced database is kept already, and
# the transaction that replaces its content has not begun.
RESTORE = """
import resource, signal, sys
from pathlib import Path
from services.trainer.database.database import Database, file_url
from services.trainer.upkeep.restore import restore

path, backup, die, limit, at = sys.argv[1:]

def limit_files(event, arguments):
    if event == "os.rename" and at in str(arguments[1]):
        if die == "early":
            signal.raise_signal(signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if die == "killed" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

sys.addaudithook(limit_files)
restore(Database(file_url(Path(path))), Path(backup))
"""


@pytest.mark.parametrize(
    ("die", "status", "damaged"),
    [("killed", -signal.SIGXFSZ, False), ("full", 1, False), ("early", -signal.SIGKILL, False),
     ("early", -signal.SIGKILL, True)],
)  # fmt: skip
def test_restore_that_dies_half_way_leaves_the_database_as_it_was(
    database: Database, path: Path, tmp_path: Path, die: str, status: int, damaged: bool
) -> None:
    say(database, *(f"text {number}" for number in range(2000)))
    back_up(database, tmp_path / "backup.db")
    with database.write() as connection:
        connection.execute(text("DELETE FROM feedback WHERE position > 1"))
    with contextlib.closing(sqlite3.connect(path)) as connection_:
        connection_.execute("VACUUM")
    database.close()
    if damaged:
        not_a_database(path)
    before = path.read_bytes()
    at = DATABASE_FILE if damaged else "replaced"
    ended = subprocess.run(
        [sys.executable, "-c", RESTORE, str(path), str(tmp_path / "backup.db"), die, str(len(before) + 20_000), at],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == status, ended.stderr
    if damaged:
        assert path.read_bytes() == before
    else:
        assert texts_of(database) == ["text 0"]
        database.close()
    restore(database, tmp_path / "backup.db")
    assert len(texts_of(database)) == 2000


def test_what_was_erased_since_the_backup_does_not_come_back(database: Database, tmp_path: Path) -> None:
    say(database, "anna one", "anna two")
    say(database, "ben one", person="ben")
    keep(database, make_record("q1", "anna one"), make_record("q2", "nobody"))
    back_up(database, tmp_path / "backup.db")
    say(database, "anna three")
    asyncio.run(Erasure(database, lambda _texts: 0).forget_person("anna"))
    last = Erasures(database).last()
    assert restore_closed(database, tmp_path / "backup.db").erasures == 1
    assert texts_of(database) == ["ben one"]
    with database.read() as connection:
        assert list(connection.scalars(select(queries.c.query_id))) == ["q2"]
    # A replica that was away may still send it, and a run that began before may have learned it.
    keep(database, make_record("q1", "anna one"), spool="another")
    erased = {key for keys in Erasures(database).text_keys_after(last - 1) for key in keys}
    assert (text_key("anna two") in erased, text_key("ben one") in erased) == (True, False)
    with database.read() as connection:
        assert list(connection.scalars(select(queries.c.query_id))) == ["q2"]
    say(database, "anna one")
    assert texts_of(database) == ["ben one", "anna one"]


def test_what_was_too_old_does_not_come_back(database: Database, tmp_path: Path) -> None:
    say(database, "old")
    with database.write() as connection:
        connection.execute(text("UPDATE feedback SET at = 1"))
    back_up(database, tmp_path / "backup.db")
    asyncio.run(Erasure(database, lambda _texts: 0).forget_older_than(10))
    say(database, "new")
    assert restore_closed(database, tmp_path / "backup.db").erasures
    assert texts_of(database) == []


def test_nobody_knows_what_was_erased_when_the_replaced_database_is_damaged(
    database: Database, path: Path, tmp_path: Path
) -> None:
    back_up(database, tmp_path / "backup.db")
    database.close()
    not_a_database(path)
    assert restore(database, tmp_path / "backup.db").erasures is None


def test_queries_that_were_delivered_before_and_after_a_restoration_are_stored_once(
    database: Database, tmp_path: Path
) -> None:
    keep(database, make_record("q1"))
    back_up(database, tmp_path / "backup.db")
    keep(database, make_record("q2"))
    restore_closed(database, tmp_path / "backup.db")
    store = keep(database)
    assert store.position_of(SPOOL) == 1
    # The replica has deleted q2, which was acknowledged. Its next batch begins behind it, and comes twice.
    for _ in range(2):
        store.keep(SPOOL, 4, [make_record("q3"), make_record("q4")])
    assert [query.query_id for query in store.recent(9)] == ["q1", "q3", "q4"]
    assert store.position_of(SPOOL) == 4


def test_lease_of_that_time_is_not_held_any_more(database: Database, tmp_path: Path) -> None:
    leases = Leases(database)
    assert leases.take(RUN) is not None
    back_up(database, tmp_path / "backup.db")
    restore_closed(database, tmp_path / "backup.db")
    assert not leases.is_held(RUN)


def test_experiment_of_that_time_is_not_running_any_more(database: Database, tmp_path: Path) -> None:
    experiments = ModelRegistry(tmp_path, "m", 2, database).experiment
    experiments.begin(pb.Experiment(experiment_id="e", running=True, challenger_version=2))
    back_up(database, tmp_path / "backup.db")
    restore_closed(database, tmp_path / "backup.db")
    last = experiments.read()
    assert last is not None
    assert (last.running, last.reason) == (False, "the database was restored from a backup")
    experiments.publish()
    assert experiments.is_published()
    experiments.begin(pb.Experiment(experiment_id="f", running=True, challenger_version=2))


def register(registry: ModelRegistry, database: Database) -> int:
    learned = FeedbackStore(database).watermark()
    return registry.versions.register(lambda version: version_files(version, learned))


@pytest.mark.parametrize("way", ["moodfood restore", "moodfood restore, the replaced database is damaged", "a copy"])
async def test_trainer_with_an_older_database_adopts_what_the_models_know_and_repeats_no_number(
    database: Database, path: Path, tmp_path: Path, way: str
) -> None:
    registry, leases = ModelRegistry(tmp_path, "m", 2, database), Leases(database)
    replica, away = FakeReplica(), FakeReplica()
    add = inference_pb2_grpc.add_InferenceServiceServicer_to_server
    async with running(replica, add) as one, running(away, add) as other:
        both, near = (Champion(registry, leases, targets, passes) for targets in ((one, other), (one,)))
        say(database, "one", "two")
        assert register(registry, database) == 1
        await both.promote(Change(1, 0, "anna", "first"))
        back_up(database, tmp_path / "backup.db")

        # Since the backup: feedback, three versions of which the first is pruned, and moves of the alias. The last move
        # reached one replica, which cannot be reached any more, and died before the alias.
        say(database, *(f"later {number}" for number in range(5)))
        assert [register(registry, database) for _ in range(3)] == [2, 3, 4]
        await both.promote(Change(3, 1, "anna", "better"))
        registry.prune()
        assert registry.versions.numbers() == [4, 3, 1]
        lost = registry.alias.begin_move(
            4, registry.alias.next_generation(), pb.HISTORY_ACTION_PROMOTED, "anna", "lost", expected=3
        )
        away.reloads.append((4, lost.alias.generation))
        database.close()

        if way == "a copy":
            for file in path.parent.glob("moodfood.db*"):
                file.unlink()
            shutil.copy(tmp_path / "backup.db", path)
        else:
            if way.endswith("damaged"):
                not_a_database(path)
            restore(database, tmp_path / "backup.db")

        registry = ModelRegistry(tmp_path, "m", 2, database)
        registry.repair()
        await Champion(registry, leases, (one,), passes).recover()

        alias = registry.alias.read()
        assert alias is not None
        # One champion: the alias has a generation above every one that a replica may have followed.
        assert (alias.version, registry.alias.pending()) == (3, None)
        assert alias.generation > lost.alias.generation + 900
        assert replica.reloads[-1] == (3, alias.generation)
        assert registry.alias.next_generation() == alias.generation + 1
        assert [record.version for record in registry.versions.list_newest(9)] == [4, 3, 1]
        last = history_of(registry)[-1]
        assert (last.to_version, last.reason) == (3, "the database is older than the alias")
        # No number of a version is used again, and new feedback is new to the champion.
        assert register(registry, database) == 5
        say(database, "new")
        seen = registry.versions.manifest(3).snapshot.feedback_records
        assert (seen, FeedbackStore(database).count_new_texts(seen)) == (7, 1)
        # The next start has nothing to mend, and changes work.
        await near.recover()
        assert registry.alias.read() == alias
        await near.promote(Change(5, 3, "anna", "next"))
        assert registry.alias.version() == 5


async def test_generation_that_only_a_replica_knows_is_not_used_again(database: Database, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, "m", 2, database)
    register(registry, database)
    promote(registry, 1)
    back_up(database, tmp_path / "backup.db")
    # A move of the time since the backup died before the alias, and a replica had followed it.
    followed = registry.alias.begin_move(1, 2, pb.HISTORY_ACTION_PROMOTED, "anna", "lost", expected=1).alias.generation
    restore_closed(database, tmp_path / "backup.db")
    registry.repair()
    await Champion(registry, Leases(database), (), passes).recover()
    alias = registry.alias.read()
    assert alias is not None
    assert (alias.version, registry.alias.pending()) == (1, None)
    assert alias.generation > followed


async def test_number_of_a_version_whose_folder_is_gone_is_not_used_again(database: Database, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, "m", 2, database)
    register(registry, database)
    back_up(database, tmp_path / "backup.db")
    assert [register(registry, database) for _ in range(2)] == [2, 3]
    shutil.rmtree(tmp_path / "m" / "3")
    restore_closed(database, tmp_path / "backup.db")
    registry.repair()
    assert register(registry, database) == 4


async def test_number_of_a_champion_whose_folder_is_gone_is_not_used_again(database: Database, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, "m", 2, database)
    register(registry, database)
    promote(registry, 1)
    shutil.rmtree(tmp_path / "m" / "1")
    forgetful = Database(file_url(tmp_path / "data" / "other.db"))
    shutil.copy(check_backup(back_up(database, tmp_path / "b.db").file).file, tmp_path / "data" / "other.db")
    with forgetful.write() as connection:
        for table in ("versions", "history", "alias_moves"):
            connection.execute(text(f"DELETE FROM {table}"))
    assert register(ModelRegistry(tmp_path, "m", 2, forgetful), forgetful) == 2
