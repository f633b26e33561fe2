"""Several trainers and several callers at once: one run at a time, and it never gets lost between them."""

import asyncio
import threading
from pathlib import Path

import pytest
from moodfood.trainer.v1 import trainer_pb2 as pb
from sqlalchemy import update

from services.trainer.database import leases as lease_times
from services.trainer.database.leases import RUN, Leases
from services.trainer.database.tables import leases
from services.trainer.dataset.snapshot import FOLDER, file_of
from services.trainer.errors import RetrainInProgress, StorageFailed
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore
from tests.trainer.runs.runners import make_runner, open_database, read_events, trains_for_ever

pytestmark = pytest.mark.anyio


@pytest.fixture
def trainers(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, sqlite_url: str
) -> tuple[Runner, Runner, RunStore]:
    """Two trainers whose runs train for ever, and their runs."""
    first, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", train=trains_for_ever)
    second, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", train=trains_for_ever)
    return first, second, store


def change_lease(folder: Path, **values: object) -> None:
    database = open_database(folder)
    with database.write() as connection:
        connection.execute(update(leases).where(leases.c.name == RUN).values(**values))
    database.close()


async def until_training(runner: Runner, run_id: str) -> None:
    async for change in runner.watch(run_id):
        if change.stage == pb.RUN_STAGE_TRAIN:
            return


async def test_of_starts_at_once_one_begins_a_run_and_the_others_name_it(
    trainers: tuple[Runner, Runner, RunStore],
) -> None:
    first, second, store = trainers
    starts = [trainer.start(pb.TRIGGER_MANUAL) for trainer in (first, first, second, second)]
    answers = await asyncio.gather(*starts, return_exceptions=True)
    (begun,) = [answer for answer in answers if isinstance(answer, pb.TrainingRun)]
    refused = [str(answer) for answer in answers if isinstance(answer, RetrainInProgress)]
    assert len(refused) == 3
    assert all(f"operations/{begun.run_id}" in sentence for sentence in refused)
    await asyncio.gather(first.close(), second.close())
    assert [run.run_id for run in store.newest_first(9)] == [begun.run_id]


async def test_one_request_at_both_trainers_at_once_and_later_is_one_run(
    trainers: tuple[Runner, Runner, RunStore],
) -> None:
    first, second, store = trainers
    starts = [trainer.start(pb.TRIGGER_MANUAL, request_id="r1") for trainer in (first, second, first)]
    ids = {run.run_id for run in await asyncio.gather(*starts)}
    await asyncio.gather(first.close(), second.close())
    assert {(await second.skip(pb.TRIGGER_CRON_TRIGGERED, "not due", "r1")).run_id} == ids
    assert len(store.newest_first(9)) == 1


async def test_run_whose_lease_has_lapsed_is_ended_by_another_trainer_and_by_no_one_else(
    trainers: tuple[Runner, Runner, RunStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, store = trainers
    run = await first.start(pb.TRIGGER_MANUAL)
    await until_training(first, run.run_id)
    await asyncio.to_thread(change_lease, tmp_path, holder="elsewhere/ns|1|ab12cd34", expires_at=1)
    next_run = await second.start(pb.TRIGGER_MANUAL)
    monkeypatch.setattr(lease_times, "RENEW_SECONDS", 0.0)
    ended = await asyncio.wait_for(first.wait(run.run_id, None), 10)
    assert (ended.state, list(ended.reasons)) == (pb.RUN_STATE_FAILED, ["the trainer stopped in stage train"])
    assert store.running() == await second.wait(next_run.run_id, 0)
    await first.close()
    assert Leases(open_database(tmp_path)).is_held(RUN)
    await second.close()
    assert not Leases(open_database(tmp_path)).is_held(RUN)
    assert read_events(tmp_path) == ["started", "failed", "started", "failed"]


async def test_trainer_that_pauses_while_it_mends_ends_no_run_of_the_one_that_took_over(
    trainers: tuple[Runner, Runner, RunStore], tmp_path: Path, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, store = trainers
    begun, go_on = threading.Event(), threading.Event()

    def pauses() -> None:
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(registry, "repair", pauses)
    mending = asyncio.create_task(first.recover())
    await asyncio.to_thread(begun.wait, 10)
    await asyncio.to_thread(change_lease, tmp_path, holder="elsewhere/ns|1|ab12cd34", expires_at=1)
    run = await second.start(pb.TRIGGER_MANUAL)
    go_on.set()
    await mending
    assert store.running() == await second.wait(run.run_id, 0)
    await second.close()


async def test_snapshot_of_a_dead_run_is_deleted_because_something_in_it_may_have_been_erased(
    trainers: tuple[Runner, Runner, RunStore], registry: ModelRegistry, tmp_path: Path
) -> None:
    first, second, _ = trainers
    of_versions = registry.repository.list_files(FOLDER)
    run = await first.start(pb.TRIGGER_MANUAL)
    registry.repository.put_file(file_of("dead"), lambda file: file.write(b"rows"))
    await second.recover()
    assert file_of("dead") in registry.repository.list_files(FOLDER)
    await asyncio.to_thread(change_lease, tmp_path, holder="elsewhere/ns|1|ab12cd34", expires_at=1)
    await second.recover()
    assert of_versions == registry.repository.list_files(FOLDER)
    assert (await second.wait(run.run_id, None)).state == pb.RUN_STATE_FAILED
    await first.close()


async def test_run_that_was_taken_over_and_not_ended_says_so_itself(
    trainers: tuple[Runner, Runner, RunStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = trainers
    run = await first.start(pb.TRIGGER_MANUAL)
    await asyncio.to_thread(change_lease, tmp_path, token=leases.c.token + 1)
    monkeypatch.setattr(lease_times, "RENEW_SECONDS", 0.0)
    ended = await asyncio.wait_for(first.wait(run.run_id, None), 10)
    assert (ended.state, list(ended.reasons)) == (pb.RUN_STATE_FAILED, ["another trainer took the run over"])


async def test_run_that_goes_on_keeps_its_lease_and_shows_that_its_trainer_lives(
    trainers: tuple[Runner, Runner, RunStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_times, "RENEW_SECONDS", 0.0)
    first, second, store = trainers
    run = await first.start(pb.TRIGGER_MANUAL)
    await asyncio.to_thread(change_lease, tmp_path, holder="elsewhere/ns|1|ab12cd34", expires_at=1)
    while not await asyncio.to_thread(Leases(open_database(tmp_path)).is_held, RUN):
        await asyncio.sleep(0.05)
    await second.recover()
    assert store.get(run.run_id).state == pb.RUN_STATE_RUNNING
    await first.close()


async def test_caller_that_goes_away_leaves_no_run_that_nobody_carries_out(
    trainers: tuple[Runner, Runner, RunStore],
) -> None:
    first, _, store = trainers
    asking = asyncio.create_task(first.start(pb.TRIGGER_MANUAL))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    while (run := await asyncio.to_thread(store.running)) is None:
        await asyncio.sleep(0.01)
    await first.cancel(run.run_id)
    assert (await first.wait(run.run_id, None)).state == pb.RUN_STATE_CANCELLED


async def test_trainer_that_stops_ends_a_run_that_is_just_starting_and_starts_no_other(
    trainers: tuple[Runner, Runner, RunStore],
) -> None:
    first, _, store = trainers
    starting = asyncio.create_task(first.start(pb.TRIGGER_MANUAL))
    while not first._starting.locked():
        await asyncio.sleep(0)
    await first.close()
    run = store.get((await starting).run_id)
    assert (run.state, run.reasons[0][:19]) == (pb.RUN_STATE_FAILED, "the trainer stopped")
    with pytest.raises(StorageFailed, match="the trainer is stopping"):
        await first.start(pb.TRIGGER_MANUAL)


async def test_run_that_is_cancelled_twice_at_once_by_both_trainers_ends_once(
    trainers: tuple[Runner, Runner, RunStore], tmp_path: Path
) -> None:
    first, second, store = trainers
    run = await first.start(pb.TRIGGER_MANUAL)
    await asyncio.gather(first.cancel(run.run_id), second.cancel(run.run_id), first.cancel(run.run_id))
    assert store.get(run.run_id).state == pb.RUN_STATE_CANCELLED
    assert read_events(tmp_path) == ["started", "failed"]
