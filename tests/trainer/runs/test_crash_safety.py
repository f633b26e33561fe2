"""Full disks and kills at every single write of a run, of feedback and of a promotion."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2

from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import StorageFailed
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.graphs.version import open_evaluation_model
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.runs.retrain import retrain
from services.trainer.runs.store import RunStore
from services.trainer.schedule.scheduler import Scheduler
from tests.conftest import ROOT, small_plan
from tests.fakes import FakeReplica, running
from tests.registries import MODEL
from tests.trainer.runs.test_runner import retrainer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@contextmanager
def disk_full_at(write: int) -> Iterator[list[int]]:
    """Refuse the n-th wait for the disk, and tell how many there were."""
    real, count = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        count[0] += 1
        if count[0] == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        yield count
    finally:
        os.fsync = real


def assert_intact(registry: ModelRegistry, alias: bytes) -> None:
    """The champion is what it was, and every version that can be seen is whole."""
    assert alias == (registry.folder / "champion").read_bytes()
    for version in registry.versions():
        manifest = registry.manifest(version)
        assert all(len(registry.file(version, each.path)) == each.size_bytes for each in manifest.files)
        registry.evaluation(version)
        registry.decision(version)
        open_evaluation_model(registry, version, None)


def test_run_with_a_full_disk_at_any_write_leaves_champion_and_registry_whole(
    small_data: Path, trained_models: Path, tmp_path: Path
) -> None:
    alias = (trained_models / MODEL / "champion").read_bytes()
    feedback = tmp_path / "feedback.jsonl"
    FeedbackStore(feedback).add([Feedback(f"something glorptastic {n}", ("flavor_spicy",)) for n in range(5)])
    failures = 0
    for write in range(1, 100):
        models = tmp_path / f"models {write}"
        shutil.copytree(trained_models, models)
        registry, versions = ModelRegistry(models, MODEL, 10), [2, 1]
        with disk_full_at(write) as count:
            try:
                versions = [
                    retrain(small_plan(small_data, models, feedback), lambda _stage, _share: None).version,
                    2,
                    1,
                ]
            except StorageFailed:
                failures += 1
        assert_intact(registry, alias)
        assert versions == registry.versions()
        registry.repair()
        assert list(registry.folder.glob(".unfinished-*")) == []
        if count[0] < write:
            break
    # The snapshot, the embeddings and eight files of the version; a folder that cannot be synced fails nothing.
    assert failures == 10


async def test_promotion_with_a_full_disk_at_any_write_serves_one_version_everywhere(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, inference_pb2_grpc.add_InferenceServiceServicer_to_server) as address:
        for write in range(1, 20):
            champion = Champion(registry, [address])
            with disk_full_at(write) as count, suppress(StorageFailed):
                await champion.promote(2, "anna", "")
            await champion.recover()
            registry.repair()
            alias = registry.champion()
            assert alias is not None
            assert replica.serving in {0, alias.version}
            assert registry.history()[-1].to_version == alias.version
            if count[0] < write:
                break
            if alias.version == 2:
                await champion.roll_back("anna", "")
        assert write > 4
        assert replica.serving == 2


async def test_run_that_cannot_be_recorded_fails_and_leaves_no_process(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    subject, _ = retrainer(registry, small_data, tmp_path, "127.0.0.1:1")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    with disk_full_at(11):
        run = await subject.start(trainer_pb2.TRIGGER_MANUAL)
        ended = await subject.wait(run.run_id, None)
    assert (ended.state, "No space left" in ended.reasons[0]) == (trainer_pb2.RUN_STATE_FAILED, True)
    assert set(children.read_text().split()) <= before
    again = await subject.wait((await subject.start(trainer_pb2.TRIGGER_MANUAL, validate_only=True)).run_id, None)
    assert again.state == trainer_pb2.RUN_STATE_SUCCEEDED


def test_feedback_with_a_full_disk_is_refused_and_not_half_there(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    store.add([Feedback("kept", ("a",), user_id="ben")])
    with disk_full_at(1), pytest.raises(StorageFailed):
        store.delete(lambda record: record.user_id == "ben")
    assert [record.text for record in store.records()] == ["kept"]


def test_every_other_store_says_that_the_disk_is_full(tmp_path: Path) -> None:
    async def ask(_tell: bool) -> str:
        return ""

    schedule = scheduler_pb2.Schedule(kind=scheduler_pb2.SCHEDULE_KIND_ADAPTIVE)
    scheduler = Scheduler(tmp_path / "schedule.json", ask)
    scheduler.start(schedule)
    before = (tmp_path / "schedule.json").read_bytes()
    with disk_full_at(1), pytest.raises(StorageFailed):
        scheduler.stop()
    assert before == (tmp_path / "schedule.json").read_bytes()
    queue = ReviewQueue(tmp_path / "review", None, FeedbackStore(tmp_path / "f"), lambda: ())  # type: ignore[arg-type]
    with disk_full_at(1), pytest.raises(StorageFailed):
        queue.close("item")


# One process learns once, so that everything is compiled, and then forks a child for each write to be killed at.
KILLED_RUNS = """
import os, shutil, signal, sys
from pathlib import Path
from tests.conftest import small_plan
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.runs.retrain import retrain

data, trained, folder = map(Path, sys.argv[1:])
real = os.fsync

def models_for(write):
    models = folder / str(write)
    shutil.copytree(trained, models)
    shutil.rmtree(models / "small" / "snapshots")
    FeedbackStore(models / "feedback.jsonl").add([Feedback("something new to embed", ("flavor_spicy",))])
    return models

def learn(models, kill_at):
    left = kill_at

    def fsync(descriptor):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    retrain(small_plan(data, models, models / "feedback.jsonl"), lambda _stage, _share: None)
    os.fsync = real

learn(models_for("warm"), 0)
for write in range(1, 40):
    models, child = models_for(write), os.fork()
    if child == 0:
        learn(models, write)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
    if status == 0:
        break
"""


def test_run_killed_at_any_write_leaves_champion_and_registry_whole(
    small_data: Path, trained_models: Path, tmp_path: Path
) -> None:
    alias = (trained_models / MODEL / "champion").read_bytes()
    finished = subprocess.run(
        [sys.executable, "-c", KILLED_RUNS, str(small_data), str(trained_models), str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    codes = [int(line) for line in finished.stdout.split()]
    assert [*[-signal.SIGKILL] * (len(codes) - 1), 0] == codes
    assert len(codes) >= 12
    for write in range(1, len(codes) + 1):
        registry = ModelRegistry(tmp_path / str(write), MODEL, 10)
        assert_intact(registry, alias)
        for path in registry.snapshots_folder.glob("[!.]*.jsonl"):
            read_snapshot(path.stem, registry.snapshots_folder)
        registry.repair()
        assert list(registry.folder.glob(".unfinished-*")) == []


KILLED_WRITER = """
import sys
from pathlib import Path
from services.trainer.feedback.store import Feedback, FeedbackStore
store = FeedbackStore(Path(sys.argv[1]))
while True:
    print(*store.add([Feedback("text", ("a",)), Feedback("text", ("b",))]), flush=True)
"""


def test_feedback_that_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "feedback.jsonl", []
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(20):
            acknowledged.extend(writer.stdout.readline().split())
        writer.kill()
        acknowledged.extend(each for line in writer.stdout if line.endswith("\n") for each in line.split())
        writer.wait()
        writer.stdout.close()
    stored = {record.feedback_id for record in FeedbackStore(path).records()}
    assert len(acknowledged) >= 160
    assert set(acknowledged) <= stored


def test_damaged_alias_is_written_anew_from_the_history(registry: ModelRegistry) -> None:
    for damage in (b"", b'{"version": 2, "gen', b"\xff\x00"):
        (registry.folder / "champion").write_bytes(damage)
        registry.repair()
        alias = json.loads((registry.folder / "champion").read_text())
        assert (alias["version"], alias["generation"]) == (1, 1)


def test_clock_set_back_neither_repeats_nor_reorders_runs(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save(trainer_pb2.TrainingRun(run_id="29991231-235959-999999-abcd", state=trainer_pb2.RUN_STATE_SUCCEEDED))
    ids = []
    for _ in range(3):
        ids.append(store.new_id())
        store.save(trainer_pb2.TrainingRun(run_id=ids[-1], state=trainer_pb2.RUN_STATE_SUCCEEDED))
    assert [run.run_id for run in store.newest_first()] == [*ids[::-1], "29991231-235959-999999-abcd"]
