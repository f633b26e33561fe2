"""The database goes away at any moment of a run, for a minute or for good."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.trainer.v1 import trainer_pb2 as pb
from sqlalchemy import update

from services.trainer.database.leases import RUN, Leases
from services.trainer.database.tables import leases
from services.trainer.errors import StorageFailed
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs import keeper
from services.trainer.runs.plan import Plan
from services.trainer.runs.record import begin_run, end_run
from services.trainer.runs.runner import Runner
from services.trainer.runs.stages import RunStage
from services.trainer.runs.store import RunStore
from tests.fakes import FakeReplica, running
from tests.trainer.runs.runners import (
    TroubledDatabase,
    make_runner,
    open_database,
    read_events,
    registers,
    trains_for_ever,
)

pytestmark = pytest.mark.anyio

ADD = inference_pb2_grpc.add_InferenceServiceServicer_to_server


@pytest.fixture
def troubled(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TroubledDatabase:
    monkeypatch.setattr(keeper, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(keeper, "BEAT_SECONDS", 0.01)
    return TroubledDatabase(tmp_path)


async def test_run_goes_on_while_the_database_is_away_and_is_stored_when_it_is_back(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, troubled: TroubledDatabase
) -> None:
    async def train(plan: Plan) -> AsyncGenerator[pb.TrainingRun, None]:
        troubled.is_away = True
        async for report in registers(plan):
            yield report

    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, store = make_runner(registry, small_data, tmp_path, address, train=train, database=troubled)
        run = await subject.start(pb.TRIGGER_MANUAL)
        async for change in subject.watch(run.run_id):
            if replica.serving:
                assert change.state == pb.RUN_STATE_RUNNING
                break
        troubled.is_away = False
        ended = await subject.wait(run.run_id, 10)
    assert (ended.state, ended.version, ended) == (pb.RUN_STATE_SUCCEEDED, replica.serving, store.get(run.run_id))
    assert read_events(tmp_path) == ["started", "success"]


async def test_stage_that_could_not_be_stored_is_stored_at_the_next_beat(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, troubled: TroubledDatabase
) -> None:
    subject, store = make_runner(
        registry, small_data, tmp_path, "127.0.0.1:1", train=trains_for_ever, database=troubled
    )
    troubled.lost_at = 3
    run = await subject.start(pb.TRIGGER_MANUAL)
    while not troubled.is_away:
        await asyncio.sleep(0.01)
    assert RunStage.TRAIN.message == (await subject.wait(run.run_id, 0)).stage
    troubled.is_away = False
    while store.get(run.run_id).stage != RunStage.TRAIN.message:
        await asyncio.sleep(0.01)
    await subject.cancel(run.run_id)
    assert list(store.get(run.run_id).reasons) == ["cancelled in stage train"]


@pytest.mark.parametrize("write", [1, 2])
async def test_start_that_cannot_be_recorded_fails_and_starts_nothing(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, troubled: TroubledDatabase, write: int
) -> None:
    subject, store = make_runner(
        registry, small_data, tmp_path, "127.0.0.1:1", train=trains_for_ever, database=troubled
    )
    troubled.lost_at = write
    with pytest.raises(StorageFailed):
        await subject.start(pb.TRIGGER_MANUAL)
    troubled.is_away = False
    assert (store.newest_first(1), read_events(tmp_path)) == ([], [])
    # What the failed start could not give back lapses by itself.
    with troubled.write() as connection:
        connection.execute(update(leases).values(expires_at=1))
    assert (await subject.start(pb.TRIGGER_MANUAL)).state == pb.RUN_STATE_RUNNING
    await subject.close()


async def test_end_that_was_stored_without_an_answer_is_the_end(troubled: TroubledDatabase) -> None:
    store, held = RunStore(troubled), Leases(troubled)
    lease, run = held.take(RUN), begin_run("run", pb.TRIGGER_MANUAL)
    assert lease is not None
    store.add(run)
    end_run(run, None)
    troubled.answer_lost_at = troubled.writes + 1
    saving = asyncio.create_task(keeper.RunKeeper(store, held, lease, run).save_end(run))
    while not troubled.is_away:
        await asyncio.sleep(0.01)
    troubled.is_away = False
    assert await saving


async def test_end_that_cannot_be_stored_is_given_up_and_the_next_trainer_ends_the_run(
    registry: ModelRegistry,
    small_data: Path,
    tmp_path: Path,
    troubled: TroubledDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "END_SECONDS", 0.05)
    subject, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", train=trains_for_ever, database=troubled)
    run = await subject.start(pb.TRIGGER_MANUAL)
    troubled.is_away = True
    await subject.cancel(run.run_id)
    database = open_database(tmp_path)
    with database.write() as connection:
        connection.execute(update(leases).values(expires_at=1))
    other, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", database=database)
    await other.recover()
    assert (store.get(run.run_id).state, read_events(tmp_path)) == (pb.RUN_STATE_FAILED, ["started", "failed"])


@pytest.mark.parametrize("trouble", ["lost_at", "answer_lost_at"])
async def test_trainer_that_dies_at_any_write_leaves_one_champion_and_a_run_that_tells_of_it(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, troubled: TroubledDatabase, trouble: str
) -> None:
    replica, ends = FakeReplica(), list[str]()
    async with running(replica, ADD) as address:
        for write in range(1, 20):
            before = registry.alias.version()
            setattr(troubled, trouble, troubled.writes + write)
            dying, store = make_runner(registry, small_data, tmp_path, address, train=registers, database=troubled)
            await carry_out_and_kill(dying, troubled)
            died, troubled.is_away = troubled.is_away, False
            database = open_database(tmp_path)
            with database.write() as connection:
                connection.execute(update(leases).values(expires_at=1))
            subject, _ = make_runner(registry, small_data, tmp_path, address, database=database)
            await subject.recover()
            champion = registry.alias.version()
            assert store.running() is None
            assert replica.serving in {0, champion}
            promoted = store.last_promoted()
            assert (promoted.version if promoted else 1) == champion
            if not died:
                break
            ends.append("promoted" if champion > before else "failed")
    assert len(ends) >= 6
    assert ends == sorted(ends)
    assert replica.serving > 1


async def carry_out_and_kill(runner: Runner, troubled: TroubledDatabase) -> None:
    """Begin a run, and kill its work as soon as the database is away."""
    with suppress(StorageFailed):
        await runner.start(pb.TRIGGER_MANUAL)
    own = runner._own
    if own is None or own.task is None:
        return
    while not troubled.is_away and not own.task.done():
        await asyncio.wait([own.task], timeout=0.01)
    own.work.cancel()
    own.task.cancel()
    await asyncio.wait([own.work, own.task])
