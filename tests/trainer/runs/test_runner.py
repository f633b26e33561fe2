import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import RetrainInProgress, SnapshotNotFound, TrainingRunNotFound, VersionRefused
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion, Change
from services.trainer.runs.events import EventLog
from services.trainer.runs.runner import Runner
from services.trainer.runs.stages import RunStage
from services.trainer.runs.store import RunStore
from tests.conftest import small_plan
from tests.fakes import FakeReplica, running
from tests.registries import promote
from tests.trainer.runs.runners import fails, make_runner, never_ends, passes

pytestmark = pytest.mark.anyio

ADD = inference_pb2_grpc.add_InferenceServiceServicer_to_server


def left_running(folder: Path, stage: pb.RunStage.ValueType, version: int) -> pb.TrainingRun:
    run = pb.TrainingRun(run_id="20260101-dead", state=pb.RUN_STATE_RUNNING, stage=stage, version=version)
    RunStore(folder / "runs").save(run)
    return run


async def test_run_that_died_while_promoting_is_failed_and_replicas_are_called_back(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_PROMOTE, version=2)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        ahead = registry.alias.next_generation()
        registry.alias.set_pending(2, ahead)
        replica.reloads.append((2, ahead))
        subject, store = make_runner(registry, small_data, tmp_path, address)
        await subject.recover()
    run = store.get("20260101-dead")
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_FAILED, ["the trainer stopped in stage promote"])
    assert (replica.serving, replica.reloads[-1][1] > ahead) == (1, True)
    alias = registry.alias.read()
    assert alias is not None
    assert (1, replica.reloads[-1][1]) == (alias.version, alias.generation)
    assert registry.history.entries()[-1].action == manifest_pb2.HISTORY_ACTION_REASSERTED
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


async def test_second_trainer_on_the_store_neither_buries_nor_starts_runs(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_TRAIN, version=0)
    subject, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    with FileLock(tmp_path / "runs" / ".lock", thread_local=False):
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
        seen = [change async for change in subject.watch(run.run_id)]
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
        subject, _ = make_runner(registry, small_data, tmp_path, address, fails)
        run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
        with pytest.raises(VersionRefused, match="rehearsal_loads"):
            await Champion(registry, [address], passes).promote(Change(run.version, 1, "anna", ""))
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_REJECTED, ["rehearsal_loads: inference crashed"])
    assert (replica.prepared, replica.reloads) == ([], [])
    assert registry.history.entries()[-1].action == manifest_pb2.HISTORY_ACTION_REFUSED


async def test_run_is_cancelled_while_it_rehearses(registry: ModelRegistry, small_data: Path, tmp_path: Path) -> None:
    subject, store = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", never_ends)
    run = await subject.start(pb.TRIGGER_MANUAL)
    async for change in subject.watch(run.run_id):
        if change.stage == pb.RUN_STAGE_REHEARSE and change.state == pb.RUN_STATE_RUNNING:
            await subject.cancel(run.run_id)
    ended = await subject.wait(run.run_id, None)
    assert (ended.state, list(ended.reasons)) == (pb.RUN_STATE_CANCELLED, ["cancelled in stage rehearse"])
    assert store.running() is None


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
        subject, _ = make_runner(registry, small_data, tmp_path, address, somebody_deploys)
        run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
    assert (run.state, registry.alias.version()) == (pb.RUN_STATE_FAILED, 2)
    assert "version 2 serves now" in run.reasons[0]
    assert registry.versions.decision(run.version).promoted
    assert (replica.prepared, replica.reloads) == ([], [])


async def test_other_trainer_on_the_store_watches_and_cancels_a_run(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    owner, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1", never_ends)
    other, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    begun = await owner.start(pb.TRIGGER_MANUAL)
    seen: list[pb.TrainingRun] = []
    async for change in other.watch(begun.run_id):
        seen.append(change)
        if change.stage == pb.RUN_STAGE_REHEARSE and change.state == pb.RUN_STATE_RUNNING:
            await other.cancel(begun.run_id)
    assert (seen[-1].state, list(seen[-1].reasons)) == (pb.RUN_STATE_CANCELLED, ["cancelled in stage rehearse"])
    assert (await owner.wait(begun.run_id, None)).state == pb.RUN_STATE_CANCELLED
    assert not list((tmp_path / "runs").glob("*.cancel"))


async def test_run_whose_trainer_has_died_ends_for_whoever_watches_it(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_TRAIN, version=0)
    subject, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
    run = await asyncio.wait_for(subject.wait("20260101-dead", None), 10)
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_FAILED, ["the trainer stopped in stage train"])


async def test_event_of_a_run_that_ended_says_what_is_known_of_it(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, _ = make_runner(registry, small_data, tmp_path, address)
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
    store = RunStore(tmp_path / "runs")
    broken = replace(small_plan(small_data, registry.folder.parent), seed_files=(str(tmp_path / "nowhere.jsonl"),))
    events = EventLog(tmp_path / "queries.jsonl", tmp_path / "retrain.log")
    subject = Runner(store, registry, Champion(registry, [], passes), events, broken)
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
    assert store.newest_first() == []
