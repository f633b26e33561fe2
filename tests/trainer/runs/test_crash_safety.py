"""Full disks and kills at every single write of a run and of a promotion."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from moodfood.inference.v1 import inference_pb2_grpc

from services.trainer.dataset.snapshot import FOLDER, read_snapshot
from services.trainer.errors import StorageFailed
from services.trainer.graphs.version import open_evaluation_model
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from tests.conftest import ROOT
from tests.fakes import FakeReplica, running
from tests.registries import MODEL, history_of, leases_of, open_registry
from tests.trainer.runs.faulted_run import STORAGE_FAILED
from tests.trainer.runs.runners import passes

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
        return open_registry(Path(self.models))


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
    # The snapshot, two files of embeddings and eight of the version; a folder that cannot be synced fails nothing.
    assert [fault.status for fault in met].count(STORAGE_FAILED) == 11
    assert {fault.status for fault in met} == {STORAGE_FAILED, 0}


def test_run_killed_at_any_write_leaves_champion_and_registry_whole(
    faulted_run: tuple[list[MetFault], dict[str, int]], trained_models: Path
) -> None:
    alias = (trained_models / MODEL / "champion").read_bytes()
    met = [fault for fault in faulted_run[0] if fault.fault == "kill"]
    assert {fault.status for fault in met} == {-signal.SIGKILL}
    for fault in met:
        assert_intact(fault.registry, alias)
        for name in fault.registry.repository.list_files(FOLDER):
            read_snapshot(PurePosixPath(name).stem, fault.registry.repository)
        for leftover in fault.registry.folder.glob(".unfinished-*"):
            os.utime(leftover, (0, 0))  # a younger one could be another trainer's that is still written
        fault.registry.repair()
        assert list(fault.registry.folder.glob(".unfinished-*")) == []


async def test_promotion_with_a_full_disk_at_any_write_serves_one_version_everywhere(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, inference_pb2_grpc.add_InferenceServiceServicer_to_server) as address:
        for write in range(1, 20):
            champion = Champion(registry, leases_of(registry), [address], passes)
            with disk_full_at(write) as count, suppress(StorageFailed):
                await champion.promote(Change(2, 1, "anna", ""))
            await champion.recover()
            registry.repair()
            alias = registry.alias.read()
            assert alias is not None
            assert replica.serving in {0, alias.version}
            assert history_of(registry)[-1].to_version == alias.version
            if count[0] < write:
                break
            if alias.version == 2:
                await champion.roll_back("anna", "")
        assert write > 2
        assert replica.serving == 2


def test_damaged_alias_is_written_anew_from_the_history(registry: ModelRegistry) -> None:
    for damage in (b"", b'{"version": 2, "gen', b"\xff\x00"):
        (registry.folder / "champion").write_bytes(damage)
        registry.repair()
        alias = json.loads((registry.folder / "champion").read_text())
        assert (alias["version"], alias["generation"]) == (1, 1)
