from pathlib import Path

import pytest
from filelock import FileLock
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import ModelVersionNotFound, RetrainInProgress, TrainingRunNotFound, VersionRefused
from services.trainer.evaluation.gate import Rule
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.rehearsals import Rehearsals
from services.trainer.runs.stages import RunStage
from services.trainer.runs.store import RunStore
from tests.fakes import FakeReplica, running
from tests.registries import promote
from tests.trainer.runs.retrainers import fails, never_ends, passes, retrainer

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
        ahead = registry.next_generation()
        registry.set_pending(2, ahead)
        replica.reloads.append((2, ahead))
        subject, store = retrainer(registry, small_data, tmp_path, address)
        await subject.recover()
    run = store.get("20260101-dead")
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_FAILED, ["the trainer stopped in stage promote"])
    assert (replica.serving, replica.reloads[-1][1] > ahead) == (1, True)
    alias = registry.champion()
    assert alias is not None
    assert (1, replica.reloads[-1][1]) == (alias.version, alias.generation)
    assert registry.history()[-1].action == manifest_pb2.HISTORY_ACTION_REASSERTED
    assert '"status": "failed"' in (tmp_path / "queries.jsonl").read_text()


async def test_run_that_died_after_the_alias_moved_leaves_the_new_champion(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_PROMOTE, version=2)
    promote(registry, 2)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        subject, store = retrainer(registry, small_data, tmp_path, address)
        await subject.recover()
    alias = registry.champion()
    assert alias is not None
    assert (alias.version, replica.reloads) == (2, [])
    assert store.get("20260101-dead").state == pb.RUN_STATE_SUCCEEDED


async def test_second_trainer_on_the_store_neither_buries_nor_starts_runs(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    left_running(tmp_path, pb.RUN_STAGE_TRAIN, version=0)
    subject, store = retrainer(registry, small_data, tmp_path, "127.0.0.1:1")
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
        subject, _ = retrainer(registry, small_data, tmp_path, address)
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
        subject, _ = retrainer(registry, small_data, tmp_path, address, fails)
        run = await subject.wait((await subject.start(pb.TRIGGER_MANUAL)).run_id, None)
        with pytest.raises(VersionRefused, match="rehearsal_loads"):
            await Champion(registry, [address]).promote(run.version, "anna", "")
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_REJECTED, ["rehearsal_loads: inference crashed"])
    assert (replica.prepared, replica.reloads) == ([], [])
    assert registry.history()[-1].action == manifest_pb2.HISTORY_ACTION_REFUSED


async def test_version_that_was_only_validated_is_rehearsed_before_it_meets_a_caller(registry: ModelRegistry) -> None:
    asked: list[int] = []

    async def watched(manifest: manifest_pb2.Manifest) -> tuple[Rule, ...]:
        asked.append(manifest.version)
        return await (passes if manifest.version == 2 else fails)(manifest)

    rehearsals = Rehearsals(registry, watched)
    for _ in range(2):
        await rehearsals.ensure(2, "anna")
    assert asked == [2]
    with pytest.raises(VersionRefused, match="rehearsal_loads"):
        await rehearsals.ensure(1, "anna")
    assert not registry.decision(1).promoted
    await rehearsals.ensure(1, "anna")
    assert asked == [2, 1]
    with pytest.raises(ModelVersionNotFound):
        await rehearsals.ensure(99, "anna")


async def test_run_is_cancelled_while_it_rehearses(registry: ModelRegistry, small_data: Path, tmp_path: Path) -> None:
    subject, _ = retrainer(registry, small_data, tmp_path, "127.0.0.1:1", never_ends)
    run = await subject.start(pb.TRIGGER_MANUAL)
    async for change in subject.watch(run.run_id):
        if change.stage == pb.RUN_STAGE_REHEARSE and change.state == pb.RUN_STATE_RUNNING:
            await subject.cancel(run.run_id)
    ended = await subject.wait(run.run_id, None)
    assert (ended.state, list(ended.reasons)) == (pb.RUN_STATE_CANCELLED, ["cancelled in stage rehearse"])
    assert subject.running is None


async def test_run_that_does_not_exist_cannot_be_watched_or_cancelled(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    subject, _ = retrainer(registry, small_data, tmp_path, "127.0.0.1:1")
    with pytest.raises(TrainingRunNotFound):
        await subject.cancel("nope")
    with pytest.raises(TrainingRunNotFound):
        await subject.wait("nope", 1)
