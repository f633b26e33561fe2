"""Full disks and kills at every single write of a run, of feedback and of a promotion."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2

from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import StorageFailed
from services.trainer.feedback.review import ReviewQueue
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.graphs.version import open_evaluation_model
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion, Change
from services.trainer.runs.store import RunStore
from services.trainer.schedule.scheduler import Scheduler
from tests.conftest import ROOT
from tests.fakes import FakeReplica, running
from tests.registries import MODEL
from tests.trainer.runs.faulted_run import STORAGE_FAILED
from tests.trainer.runs.runners import make_runner, passes

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
    for version in registry.versions.numbers():
        manifest = registry.versions.manifest(version)
        assert manifest.files
        assert all(len(registry.versions.file(version, file.path)) == file.size_bytes for file in manifest.files)
        registry.versions.evaluation(version)
        registry.versions.decision(version)
        open_evaluation_model(registry, version, None)


@dataclass(frozen=True)
class MetFault:
    """How a process ended that met a fault at one write of a run, and the model repository that it left."""

    fault: str
    stage: str
    write: int
    status: int
    models: str

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(Path(self.models), MODEL, 10)


@pytest.fixture(scope="module")
def faulted_run(
    small_data: Path, trained_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[MetFault], dict[str, int]]:
    """Every fault at every write of one run, and how often each stage of that run writes."""
    folder = tmp_path_factory.mktemp("faulted run")
    finished = subprocess.run(
        [sys.executable, "-m", "tests.trainer.runs.faulted_run", str(small_data), str(trained_models), str(folder)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    *faults, summary = map(json.loads, finished.stdout.splitlines())
    writes = summary["writes"]
    return [MetFault(**fault) for fault in faults if fault["write"] < writes[fault["stage"]]], writes


def test_no_stage_but_snapshot_and_register_writes(faulted_run: tuple[list[MetFault], dict[str, int]]) -> None:
    faults, writes = faulted_run
    assert writes.keys() == {"snapshot", "register"}
    assert len(faults) == 2 * sum(writes.values())


def test_run_with_a_full_disk_at_any_write_leaves_champion_and_registry_whole(
    faulted_run: tuple[list[MetFault], dict[str, int]], trained_models: Path
) -> None:
    alias = (trained_models / MODEL / "champion").read_bytes()
    met = [fault for fault in faulted_run[0] if fault.fault == "full"]
    for fault in met:
        assert_intact(fault.registry, alias)
        registered = [3] if (fault.stage, fault.status) == ("register", 0) else []
        assert [*registered, 2, 1] == fault.registry.versions.numbers(), fault
        fault.registry.repair()
        assert list(fault.registry.folder.glob(".unfinished-*")) == []
    # The snapshot, the embeddings and eight files of the version; a folder that cannot be synced fails nothing.
    assert [fault.status for fault in met].count(STORAGE_FAILED) == 10
    assert {fault.status for fault in met} == {STORAGE_FAILED, 0}


def test_run_killed_at_any_write_leaves_champion_and_registry_whole(
    faulted_run: tuple[list[MetFault], dict[str, int]], trained_models: Path
) -> None:
    alias = (trained_models / MODEL / "champion").read_bytes()
    met = [fault for fault in faulted_run[0] if fault.fault == "kill"]
    assert {fault.status for fault in met} == {-signal.SIGKILL}
    for fault in met:
        assert_intact(fault.registry, alias)
        for path in fault.registry.snapshots_folder.glob("[!.]*.jsonl"):
            read_snapshot(path.stem, fault.registry.snapshots_folder)
        fault.registry.repair()
        assert list(fault.registry.folder.glob(".unfinished-*")) == []


async def test_promotion_with_a_full_disk_at_any_write_serves_one_version_everywhere(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, inference_pb2_grpc.add_InferenceServiceServicer_to_server) as address:
        for write in range(1, 20):
            champion = Champion(registry, [address], passes)
            with disk_full_at(write) as count, suppress(StorageFailed):
                await champion.promote(Change(2, 1, "anna", ""))
            await champion.recover()
            registry.repair()
            alias = registry.alias.read()
            assert alias is not None
            assert replica.serving in {0, alias.version}
            assert registry.history.entries()[-1].to_version == alias.version
            if count[0] < write:
                break
            if alias.version == 2:
                await champion.roll_back("anna", "")
        assert write > 4
        assert replica.serving == 2


async def test_run_that_cannot_be_recorded_fails_and_leaves_no_process(
    registry: ModelRegistry, small_data: Path, tmp_path: Path
) -> None:
    subject, _ = make_runner(registry, small_data, tmp_path, "127.0.0.1:1")
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
        acknowledged.extend(word for line in writer.stdout if line.endswith("\n") for word in line.split())
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
