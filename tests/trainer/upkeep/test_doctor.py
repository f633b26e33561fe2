"""What the doctor finds, mends and leaves to people, on both databases."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb
from moodfood.trainer.v1 import trainer_pb2
from sqlalchemy import delete, text, update

from services.trainer.database.database import Database, file_url
from services.trainer.database.leases import CHAMPION, Leases
from services.trainer.database.migrate import NEWEST
from services.trainer.database.tables import alias_moves, counters, leases, unfinished_erasures, versions
from services.trainer.dataset.snapshot import FOLDER
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.runs.events import EventLog
from services.trainer.runs.record import begin_run
from services.trainer.runs.recovery import Recovery
from services.trainer.runs.store import RunStore
from services.trainer.upkeep.doctor import TRY_LATER, Problem, Stores, diagnose
from services.trainer.upkeep.old_files import Folders
from services.trainer.upkeep.old_files import has_old_files as has_files
from tests.object_store import ObjectStore
from tests.registries import MODEL, promote, version_files
from tests.trainer.runs.runners import passes

pytestmark = pytest.mark.anyio


def make_stores(database: Database, folder: Path, models_url: str = "") -> Stores:
    """Return the stores of one trainer without replicas."""
    registry = ModelRegistry(folder, MODEL, 10, database, models_url)
    leases, runs = Leases(database), RunStore(database)
    events = EventLog(folder / "queries.jsonl", folder / "retrain.log")
    recovery = Recovery(runs, leases, registry, Champion(registry, leases, (), passes), events)
    erasure, has_old_files = Erasure(database, lambda _texts: 0), partial(has_files, Folders(folder, folder))
    return Stores(database, registry, leases, runs, erasure, recovery.recover, has_old_files)


def fill(stores: Stores) -> Stores:
    """Add versions 1 and 2 with their snapshots, the champion 1, and what people said."""
    for version in (1, 2):
        stores.registry.repository.put_file(f"{FOLDER}/s{version}.parquet", lambda _file: None)
        stores.registry.versions.register(lambda number: version_files(number, snapshot=f"s{number}"))
    promote(stores.registry, 1)
    FeedbackStore(stores.database).add([Feedback("one", ("soup",)), Feedback("two", ("soup",))])
    return stores


@pytest.fixture
def stores(sqlite_url: str, tmp_path: Path) -> Iterator[Stores]:
    database = Database(sqlite_url)
    yield fill(make_stores(database, tmp_path))
    database.close()


def change(stores: Stores, statement: object) -> None:
    with stores.database.write() as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def found(problems: tuple[Problem, ...]) -> list[str]:
    return [f"{problem.check}: {problem.sentence}" for problem in problems]


async def test_stores_that_agree_are_healthy(database: Database, tmp_path: Path) -> None:
    healthy = await diagnose(fill(make_stores(database, tmp_path)), mend=False)
    assert (healthy.wrong, healthy.notes, healthy.mended) == ((), (), ())
    assert {"database", "counters", "alias", "versions", "snapshots"} < set(healthy.checks)


def set_back_counter(stores: Stores) -> None:
    change(stores, update(counters).where(counters.c.name == "feedback").values(value=1))


def lose_counter(stores: Stores) -> None:
    change(stores, delete(counters).where(counters.c.name == "history"))


def damage_alias(stores: Stores) -> None:
    (stores.registry.folder / "champion").write_text("{")


def forget_moves(stores: Stores) -> None:
    change(stores, text("DELETE FROM history"))
    change(stores, delete(alias_moves))


def set_back_alias(stores: Stores) -> None:
    older = (stores.registry.folder / "champion").read_bytes()
    promote(stores.registry, 2)
    promote(stores.registry, 1)
    (stores.registry.folder / "champion").write_bytes(older)


def begin_move(stores: Stores) -> None:
    stores.registry.alias.begin_move(2, 7, pb.HISTORY_ACTION_PROMOTED, "anna", "why", expected=1)


def lose_row(stores: Stores) -> None:
    change(stores, delete(versions).where(versions.c.version == 2))


def lose_folder(stores: Stores) -> None:
    shutil.rmtree(stores.registry.folder / "2")


def mistake_row(stores: Stores) -> None:
    change(stores, update(versions).where(versions.c.version == 2).values(manifest='{"version": 2}'))


def publish_experiment(stores: Stores) -> None:
    (stores.registry.folder / "experiment").write_text('{"experiment_id": "e", "running": true}')


def abandon_run(stores: Stores) -> None:
    stores.runs.add(begin_run(stores.runs.new_id(), trainer_pb2.TRIGGER_CRON_TRIGGERED))


def die_with_lease(stores: Stores) -> None:
    assert stores.leases.take(CHAMPION) is not None
    with stores.database.write() as connection:
        holder = str(connection.scalar(text("SELECT holder FROM leases")))
        place, pid, _ = holder.split("|")
        connection.execute(update(leases).values(holder=f"{place}|{pid}|before"))


def leave_erasure(stores: Stores) -> None:
    change(stores, unfinished_erasures.insert().values(erasure=1, number=0, text="gone"))


def leave_files(stores: Stores) -> None:
    leftover = stores.registry.folder / ".unfinished-killed"
    leftover.mkdir()
    os.utime(leftover, (0, 0))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (set_back_counter, "counters: the counter feedback stands at 1, and 2 is in use"),
        (lose_counter, "counters: the counter history is missing"),
        (damage_alias, "alias: the file of the champion alias is damaged"),
        (forget_moves, "alias: the database does not know the move to version 1, generation 1"),
        (set_back_alias, "alias: the alias has generation 1, and the database 3"),
        (begin_move, "alias: the move with generation 7 was not finished"),
        (lose_row, "versions: the registry has version 2, and the database does not, or knows another one"),
        (mistake_row, "versions: the registry has version 2, and the database does not, or knows another one"),
        (lose_folder, "versions: the database has version 2, and the registry does not"),
        (publish_experiment, "experiment: the file of the experiment differs from the database"),
        (abandon_run, "runs: run R goes on, and no trainer carries it out"),
        (die_with_lease, "leases: the holder of the lease champion is dead"),
        (leave_erasure, "erasures: 1 deleted texts may still be in snapshots and embeddings"),
        (leave_files, "leftovers: a write that died has left .unfinished-killed"),
    ],
)
async def test_what_is_safe_to_mend_is_found_and_mended(
    stores: Stores, spoil: Callable[[Stores], None], problem: str
) -> None:
    spoil(stores)
    seen = await diagnose(stores, mend=False)
    again = await diagnose(stores, mend=False)
    assert seen == again  # looking changes nothing
    assert [each.advice for each in seen.wrong] == ["call `moodfood doctor --mend`"]
    assert [re.sub(r"run [0-9a-f-]+", "run R", line) for line in found(seen.wrong)] == [problem]
    mended = await diagnose(stores, mend=True)
    assert (found(mended.mended), mended.wrong) == (found(seen.wrong), ())
    assert stores.registry.alias.version() == 1
    assert (await diagnose(stores, mend=False)).wrong == ()


def damage_version(stores: Stores) -> None:
    graph = next((stores.registry.folder / "1").glob("*.onnx"))
    graph.write_bytes(b"damaged")


def lose_champion(stores: Stores) -> None:
    shutil.rmtree(stores.registry.folder / "1")
    stores.registry.repair()


def leave_old_file(stores: Stores) -> None:
    (stores.registry.folder / "history.jsonl").write_text('{"action": "HISTORY_ACTION_PROMOTED"}\n')


def lose_alias(stores: Stores) -> None:
    (stores.registry.folder / "champion").unlink()


def be_newer(stores: Stores) -> None:
    change(stores, text("UPDATE alembic_version SET version_num = '9999'"))


@pytest.mark.parametrize(
    ("spoil", "problem", "advice"),
    [
        (damage_version, "versions: version 1 is damaged in the repository", "copy its folder back"),
        (lose_champion, "alias: the champion is version 1, which the registry does not have", "copy its folder back"),
        (lose_alias, "alias: no version is the champion, and version 1 was", "deploy version 1"),
        (leave_old_file, "old files: files of an earlier release", "run `moodfood migrate`"),
        (be_newer, "database: the database has migration 9999, which is newer", "start the newer program"),
    ],
)
async def test_what_needs_a_person_is_told_and_stays(
    stores: Stores, spoil: Callable[[Stores], None], problem: str, advice: str
) -> None:
    spoil(stores)
    for mend in (False, True):
        seen = await diagnose(stores, mend=mend)
        (wrong,) = seen.wrong
        assert f"{wrong.check}: {wrong.sentence}".startswith(problem)
        assert advice in f"{wrong.sentence} {wrong.advice}"
        assert seen.mended == ()


async def test_several_problems_are_mended_at_once_on_either_database(database: Database, tmp_path: Path) -> None:
    stores = fill(make_stores(database, tmp_path))
    spoilt = (set_back_counter, lose_counter, lose_row, abandon_run, die_with_lease, leave_erasure, begin_move)
    for spoil in spoilt:
        spoil(stores)
    mended = await diagnose(stores, mend=True)
    assert (len(mended.mended), mended.wrong) == (len(spoilt), ())


async def test_object_that_is_damaged_in_a_bucket_is_found_beside_an_intact_copy(
    sqlite_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    url, database = store.make_bucket(), Database(sqlite_url)
    stores = fill(make_stores(database, tmp_path, url))
    stores.registry.repository.folder_of(1)
    assert (await diagnose(stores, mend=False)).wrong == ()
    store.overwrite(url, f"{MODEL}/1/model.onnx", b"graph I")
    (wrong,) = (await diagnose(stores, mend=True)).wrong
    assert "SHA-256 of model.onnx differs" in wrong.sentence
    database.close()


async def test_deleted_snapshot_is_only_worth_knowing(stores: Stores) -> None:
    for name in stores.registry.repository.list_files(FOLDER):
        stores.registry.repository.delete_file(name)
    seen = await diagnose(stores, mend=False)
    assert (len(seen.notes), seen.wrong) == (2, ())
    lose_folder(stores)  # of version 2, whose snapshot is not missed any more then
    mended = await diagnose(stores, mend=True)
    assert (len(mended.notes), [problem.check for problem in mended.mended]) == (1, ["versions"])


async def test_run_that_goes_on_is_not_disturbed(stores: Stores) -> None:
    lease = stores.leases.take("run")
    assert lease is not None
    abandon_run(stores)
    lose_row(stores)
    seen = await diagnose(stores, mend=True)
    assert [problem.advice for problem in seen.wrong] == [TRY_LATER]
    assert stores.runs.running() is not None
    stores.leases.give_back(lease)


def away(folder: Path) -> Database:
    return Database("postgresql://moodfood@127.0.0.1:1/moodfood")


def missing(folder: Path) -> Database:
    return Database(file_url(folder / "none.db"))


def damaged(folder: Path) -> Database:
    (folder / "bad.db").write_bytes(b"no database at all " * 500)
    return Database(file_url(folder / "bad.db"))


@pytest.mark.parametrize(
    ("make", "problem"),
    [(away, "cannot be reached"), (missing, "there is no database"), (damaged, "the file of the database is damaged")],
)
async def test_database_that_cannot_be_read_is_told_alone(
    make: Callable[[Path], Database], problem: str, tmp_path: Path
) -> None:
    database = make(tmp_path)
    (wrong,) = (await diagnose(make_stores(database, tmp_path), mend=True)).wrong
    assert (wrong.check, problem in wrong.sentence) == ("database", True)
    assert not (tmp_path / "none.db").exists()


async def test_database_of_an_earlier_release_is_migrated_when_asked(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    database = Database(file_url(tmp_path / "empty.db"))
    stores = make_stores(database, tmp_path)
    assert found((await diagnose(stores, mend=False)).wrong) == [
        f"database: the database has migration none, and this program needs {NEWEST}"
    ]
    assert (await diagnose(stores, mend=True)).wrong == ()
    database.close()
