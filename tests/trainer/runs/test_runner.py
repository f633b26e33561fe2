import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.database.leases import RUN, Leases
from services.trainer.errors import (
    RetrainInProgress,
    SnapshotNotFound,
    StorageFailed,
    TrainingRunNotFound,
    VersionRefused,
)
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.runs import recovery
from services.trainer.runs.events import EventLog
from services.trainer.runs.runner import Runner
from services.trainer.runs.stages import RunStage
from services.trainer.runs.store import RunStore
from services.trainer.runs.work import RunWork
from tests.conftest import small_plan
from tests.fakes import FakeReplica, running
from tests.registries import history_of, leases_of, promote
from tests.trainer.runs.runners import fails, make_runner, never_ends, open_database, passes, registers

pytestmark = pytest.mark.anyio

ADD = inference_pb2_grpc.add_InferenceServiceServicer_to_server


def left_running(folder: Path, stage: pb.RunStage.ValueType, version: int) -> None:
    run = pb.TrainingRun(run_id="20260101-dead", state=pb.RUN_STATE_RUNNING, stage=stage, version=version)
    RunStore(open_database(folder)).add(run)


def read_commands_of_children() -> set[str]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = (Path(f"/proc/{child}/cmdline") for child in children)
    return {command.read_text().replace("\0", " ").strip() for command in commands if command.exists()}


async def test_run_that_died_while_promoting_is_failed_and_replicas_are_called_back(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_PROMOTE, version=2)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        ahead = registry.alias.next_generation()
        registry.alias.begin_move(2, ahead, manifest_pb2.HISTORY_ACTION_PROMOTED, "run", "", expected=1)
        replica.reloads.append((2, ahead))
        subject, store = make_runner(registry, small_data, tmp_path, address)
        await subject.recover()
    run = store.get("20260101-dead")
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_FAILED, ["the trainer stopped in stage promote"])
    assert (replica.serving, replica.reloads[-1][1] > ahead) == (1, True)
    alias = registry.alias.read()
    assert alias is not None
    assert (1, replica.reloads[-1][1]) == (alias.version, alias.generation)
    assert history_of(registry)[-1].action == manifest_pb2.HISTORY_ACTION_REASSERTED
    assert '"status": "failed"' in (tmp_path / "queries.jsonl").read_text()


async def test_run_that_died_after_the_alias_moved_leaves_the_new_champion(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_PROMOTE, version=2)
    promote(registry, 2)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, store = make_runner(registry, small_data, tmp_path, address)
        await subject.recover()
    alias = registry.alias.read()
    assert alias is not None
    assert (alias.version, replica.reloads) == (2, [])
    assert store.get("20260101-dead").state == pb.RUN_STATE_SUCCEEDED


async def test_second_trainer_neither_buries_nor_starts_runs_while_the_first_lives(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_TRAIN, version=0)
    subject, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    assert Leases(open_database(tmp_path)).take(RUN) is not None
    await subject.recover()
    assert store.get("20260101-dead").state == pb.RUN_STATE_RUNNING
    with pytest.raises(RetrainInProgress, match="operations/20260101-dead"):
        await subject.start(pb.TRIGGER_MANUAL)


async def test_run_is_watched_to_its_end_with_a_percentage_that_never_falls(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, _ = make_runner(registry, small_data, tmp_path, address)
        run = await subject.start(pb.TRIGGER_MANUAL)
        seen = list[pb.TrainingRun]()
        commands = set[str]()
        async for change in subject.watch(run.run_id):
            seen.append(change)
            commands |= read_commands_of_children()
    # The plan, which may hold a password, is not among the arguments, which everybody on the machine sees.
    assert [command for command in commands if "runs.worker" in command] == [
        f"{sys.executable} -m services.trainer.runs.worker"
    ]
    percents = [change.percent for change in seen]
    assert percents == sorted(percents)
    assert (percents[-1], seen[-1].state) == (100, pb.RUN_STATE_SUCCEEDED)
    assert seen[-1].version == replica.serving == 3
    names = [pb.RunStage.Name(change.stage).removeprefix("RUN_STAGE_") for change in seen]
    order = ["UNSPECIFIED", *(stage.name for stage in RunStage)]
    assert names == sorted(names, key=order.index)
    assert "rehearsal_loads" in [rule.rule for rule in seen[-1].decision.rules]


async def test_version_that_fails_its_rehearsal_is_refused_for_good(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, _ = make_runner(registry, small_data, tmp_path, address, fails, registers)
        run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
        with pytest.raises(VersionRefused, match="rehearsal_loads"):
            await Champion(registry, leases_of(registry), [address], passes).promote(Change(run.version, 1, "anna", ""))
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_REJECTED, ["rehearsal_loads: inference crashed"])
    assert (replica.prepared, replica.reloads) == ([], [])
    assert history_of(registry)[-1].action == manifest_pb2.HISTORY_ACTION_REFUSED


async def test_run_is_cancelled_while_it_rehearses(registry: ModelRegistry, small_data: Path, tmp_path: Path) -> None:
    subject, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", never_ends, registers)
    run = await subject.start(pb.TRIGGER_MANUAL)
    async for change in subject.watch(run.run_id):
        if change.stage == pb.RUN_STAGE_REHEARSE and change.state == pb.RUN_STATE_RUNNING:
            await subject.cancel(run.run_id)
    ended = await subject.wait(run.run_id, None)
    assert (ended.state, list(ended.reasons)) == (pb.RUN_STATE_CANCELLED, ["cancelled in stage rehearse"])
    assert store.running() is None


@pytest.mark.parametrize("trouble", ["it is cancelled", "the database is away"])
async def test_run_whose_version_serves_has_succeeded_whatever_comes_after_that(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    has_promoted = asyncio.Event()

    async def read_decision(_: RunWork) -> None:
        has_promoted.set()
        if trouble == "the database is away":
            raise StorageFailed("the database cannot be reached")
        await asyncio.sleep(3600)

    monkeypatch.setattr(RunWork, "_read_decision", read_decision)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, store = make_runner(registry, small_data, tmp_path, address, train=registers)
        run = await subject.start(pb.TRIGGER_MANUAL)
        await has_promoted.wait()
        if trouble == "it is cancelled":
            await subject.cancel(run.run_id)
        ended = await asyncio.wait_for(subject.wait(run.run_id, None), 10)
    assert (ended.state, list(ended.reasons)) == (pb.RUN_STATE_SUCCEEDED, [])
    assert ended.version == replica.serving == registry.alias.version() > 1
    assert store.last_promoted() == ended


async def test_request_to_cancel_that_meets_another_change_of_the_champion_is_not_lost(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    subject, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", never_ends, registers)
    run = await subject.start(pb.TRIGGER_MANUAL)
    async for change in subject.watch(run.run_id):
        if change.stage == pb.RUN_STAGE_REHEARSE:
            break
    subject._champion.committing = True
    cancelling = asyncio.create_task(subject.cancel(run.run_id))
    await asyncio.wait([cancelling], timeout=0.1)
    assert (await subject.wait(run.run_id, 0)).state == pb.RUN_STATE_RUNNING
    subject._champion.committing = False
    await cancelling
    assert (await asyncio.wait_for(subject.wait(run.run_id, None), 10)).state == pb.RUN_STATE_CANCELLED


async def test_run_that_does_not_exist_cannot_be_watched_or_cancelled(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    subject, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    with pytest.raises(TrainingRunNotFound):
        await subject.cancel("nope")
    with pytest.raises(TrainingRunNotFound):
        await subject.wait("nope", 1)


async def test_champion_that_changes_during_a_run_is_not_replaced_by_it(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    async def somebody_deploys(manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
        promote(registry, 2)
        return await passes(manifest)

    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, _ = make_runner(registry, small_data, tmp_path, address, somebody_deploys, registers)
        run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
    assert (run.state, registry.alias.version()) == (pb.RUN_STATE_FAILED, 2)
    assert "version 2 serves now" in run.reasons[0]
    assert registry.versions.decision(run.version).promoted
    assert (replica.prepared, replica.reloads) == ([], [])


async def test_other_trainer_on_the_store_watches_and_cancels_a_run(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    owner, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", never_ends, registers)
    other, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    begun = await owner.start(pb.TRIGGER_MANUAL)
    seen: list[pb.TrainingRun] = []
    async for change in other.watch(begun.run_id):
        seen.append(change)
        if change.stage == pb.RUN_STAGE_REHEARSE and change.state == pb.RUN_STATE_RUNNING:
            await other.cancel(begun.run_id)
    assert (seen[-1].state, list(seen[-1].reasons)) == (pb.RUN_STATE_CANCELLED, ["cancelled in stage rehearse"])
    assert (await owner.wait(begun.run_id, None)).state == pb.RUN_STATE_CANCELLED


async def test_run_whose_trainer_has_died_ends_for_whoever_watches_it(
    registry: ModelRegistry, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "FOLLOW_SECONDS", 0.05)
    left_running(tmp_path, pb.RUN_STAGE_TRAIN, version=0)
    subject, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    following = asyncio.create_task(subject.follow())
    run = await asyncio.wait_for(subject.wait("20260101-dead", None), 10)
    following.cancel()
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_FAILED, ["the trainer stopped in stage train"])


async def test_event_of_a_run_that_ended_says_what_is_known_of_it(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, _ = make_runner(registry, small_data, tmp_path, address, train=registers)
        run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
    began, ended = (json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines())
    assert (began["status"], ended["status"]) == ("started", "success")
    assert "details" not in began
    assert {
        "duration_seconds": pytest.approx((run.finished_at.ToMilliseconds() - run.started_at.ToMilliseconds()) / 1e3),
        "accuracy": run.evaluation.accuracy,
        "dataset_size": run.snapshot.train_examples,
        "new_samples": 0,
    } == ended["details"]
    assert run.evaluation.accuracy > 0
    assert run.snapshot.train_examples > 0


async def test_run_that_failed_early_knows_its_duration_only(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    database = open_database(tmp_path)
    broken = replace(small_plan(small_data, registry.folder.parent), seed_files=(str(tmp_path / "nowhere.jsonl"),))
    events = EventLog(tmp_path / "queries.jsonl", tmp_path / "retrain.log")
    leases = Leases(database)
    subject = Runner(RunStore(database), leases, registry, Champion(registry, leases, [], passes), events, broken)
    run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
    assert run.state == pb.RUN_STATE_FAILED
    assert "nowhere.jsonl" in run.reasons[0]
    details = json.loads((tmp_path / "queries.jsonl").read_text().splitlines()[-1])["details"]
    assert details.pop("duration_seconds") > 0
    assert details == {"accuracy": 0.0, "dataset_size": 0, "new_samples": 0}


async def test_snapshot_that_does_not_exist_begins_no_run(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    subject, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    with pytest.raises(SnapshotNotFound):
        await subject.start(pb.TRIGGER_MANUAL, snapshot_id="nope")
    assert store.newest_first(1) == []
