"""Five inference processes under load while the champion changes and some of them die, freeze or come back late."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc

from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout import replicas as rollout
from services.trainer.rollout.champion import Champion, Change
from tests.conftest import ROOT
from tests.registries import MODEL
from tests.system import eventually, free_ports

pytestmark = pytest.mark.timeout(180)

REPLICAS = 5
# The longest that two versions may be served after a change has ended.
SECONDS_APART = 5.0


@dataclass
class Fleet:
    """Inference processes by number, their addresses, and what one caller of each saw."""

    environment: dict[str, str]
    ports: list[int]
    folder: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    failures: dict[int, list[str]] = field(default_factory=dict)
    answers: dict[int, list[tuple[float, int]]] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    def start(self, number: int) -> None:
        with (self.folder / f"replica-{number}.out").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", "services.inference"],
                cwd=ROOT,
                env={**self.environment, "MOODFOOD_INFERENCE_PORT": str(self.ports[number])},
                stdout=log,
                stderr=log,
            )

    def signal(self, number: int, what: signal.Signals) -> None:
        self.processes[number].send_signal(what)

    def version(self, number: int) -> int:
        with grpc.insecure_channel(self.targets[number]) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            try:
                return int(stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=1).version)
            except grpc.RpcError:
                return -1

    def versions(self) -> list[int]:
        return [self.version(number) for number in range(REPLICAS)]

    def ask_until(self, number: int, over: threading.Event) -> None:
        """Ask one replica one query after the other; remember when it answered by which version."""
        request = inference_pb2.ClassifyRequest(text="pizza and chocolate")
        with grpc.insecure_channel(self.targets[number]) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while not over.is_set():
                try:
                    answer = stub.Classify(request, timeout=5)
                    self.answers[number].append((time.monotonic(), answer.classification.model_version))
                except grpc.RpcError as error:
                    self.failures[number].append(str(error.code()))
                time.sleep(0.01)


@pytest.fixture
def fleet(small_data: Path, models: Path, tmp_path: Path) -> Iterator[Fleet]:
    environment = {
        **os.environ,
        "MOODFOOD_DATA_DIR": str(small_data),
        "MOODFOOD_LOGS_DIR": str(tmp_path / "logs"),
        "MOODFOOD_MODELS_DIR": str(models),
        "MOODFOOD_MODEL": MODEL,
        "MOODFOOD_ENCODER_DIR": str(tmp_path / "no-encoder"),
    }
    subject = Fleet(environment, free_ports(REPLICAS), tmp_path)
    try:
        for number in range(REPLICAS):
            subject.start(number)
        eventually(lambda: subject.versions() == [1] * REPLICAS, "five replicas on version 1")
        yield subject
    finally:
        for process in subject.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@contextmanager
def load(fleet: Fleet) -> Iterator[None]:
    over = threading.Event()
    for number in range(REPLICAS):
        fleet.answers[number], fleet.failures[number] = [], []
    threads = [threading.Thread(target=fleet.ask_until, args=(number, over)) for number in range(REPLICAS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def promote(registry: ModelRegistry, fleet: Fleet, version: int) -> Change:
    return asyncio.run(Champion(registry, fleet.targets).promote(version, "test", "fault injection", must_reach=True))


def last_answer_of(fleet: Fleet, version: int, numbers: list[int]) -> float:
    return max((at for number in numbers for at, served in fleet.answers[number] if served == version), default=0.0)


def kill_when(fleet: Fleet, number: int, registry: ModelRegistry, *, pending: bool) -> threading.Thread:
    """Kill a replica as soon as a change has begun (or, with pending, as soon as its replicas may commit)."""

    def run() -> None:
        sign = registry.folder / ("pending" if pending else ".changing")
        while not sign.exists():
            time.sleep(0.0005)
        fleet.signal(number, signal.SIGKILL)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("during", ["prepare", "commit"])
def test_replica_killed_in_either_phase_stops_nobody_and_comes_back_on_the_champion(
    fleet: Fleet, registry: ModelRegistry, during: str
) -> None:
    (registry.folder / ".changing").unlink(missing_ok=True)
    healthy = [0, 1, 2, 3]
    with load(fleet):
        killer = kill_when(fleet, 4, registry, pending=during == "commit")
        change = promote(registry, fleet, 2)
        ended = time.monotonic()
        killer.join()
        fleet.processes[4].wait()
        fleet.start(4)
        eventually(lambda: fleet.versions() == [2] * REPLICAS, "five replicas on version 2", 20)
        time.sleep(0.3)
    assert [fleet.failures[number] for number in healthy] == [[], [], [], []]
    assert last_answer_of(fleet, 1, healthy) < ended + SECONDS_APART
    assert [each.target for each in change.replicas] == fleet.targets
    assert [each.problem for each in change.replicas[:4]] == [""] * 4
    killed = change.replicas[4].problem
    assert killed == "" or killed.startswith("not reached while"), killed


def test_frozen_replica_stops_nobody_and_converges_when_it_thaws(
    fleet: Fleet, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rollout._DEADLINES, inference_pb2.RELOAD_PHASE_PREPARE, 1.0)
    with load(fleet):
        fleet.signal(0, signal.SIGSTOP)
        change = promote(registry, fleet, 2)
        ended = time.monotonic()
        assert fleet.versions()[1:] == [2] * (REPLICAS - 1)
        fleet.signal(0, signal.SIGCONT)
        thawed = time.monotonic()
        eventually(lambda: fleet.version(0) == 2, "the thawed replica on version 2", SECONDS_APART)
        time.sleep(0.3)
    assert [fleet.failures[number] for number in range(1, REPLICAS)] == [[]] * (REPLICAS - 1)
    assert last_answer_of(fleet, 1, list(range(1, REPLICAS))) < ended + SECONDS_APART
    assert last_answer_of(fleet, 1, [0]) < thawed + SECONDS_APART
    assert change.replicas[0].problem.startswith("not reached while preparing")


def test_replica_back_after_many_changes_follows_the_newest_and_is_never_sent_to_an_old_one(
    fleet: Fleet, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rollout._DEADLINES, inference_pb2.RELOAD_PHASE_PREPARE, 1.0)
    fleet.signal(0, signal.SIGSTOP)
    for version in (2, 1, 2):
        promote(registry, fleet, version)
    fleet.signal(0, signal.SIGCONT)
    eventually(lambda: fleet.version(0) == 2, "the late replica on the newest version", SECONDS_APART)
    with grpc.insecure_channel(fleet.targets[0]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="older than"):
            stub.ReloadModel(inference_pb2.ReloadModelRequest(version=1, generation=2), timeout=5)
    assert fleet.versions() == [2] * REPLICAS


def test_replica_whose_files_are_damaged_between_the_phases_sends_everybody_back(
    fleet: Fleet, registry: ModelRegistry
) -> None:
    """A replica that restarts between the phases has nothing aside and must load; the files are gone by then."""
    with load(fleet):
        results = asyncio.run(rollout.prepare(fleet.targets, 2, 2))
        assert [each.done for each in results] == [True] * REPLICAS
        graph = registry.folder / "2" / "model.onnx"
        fleet.signal(3, signal.SIGKILL)
        fleet.processes[3].wait()
        graph.write_bytes(b"damaged")
        fleet.start(3)
        eventually(lambda: fleet.version(3) == 1, "the restarted replica")
        committed = asyncio.run(rollout.commit(fleet.targets, 2, 2))
        assert [each.refused for each in committed] == [False, False, False, True, False]
        asyncio.run(Champion(registry, fleet.targets).recover())
        ended = time.monotonic()
        eventually(lambda: fleet.versions() == [1] * REPLICAS, "everybody back on version 1", SECONDS_APART)
        time.sleep(0.3)
    assert [fleet.failures[number] for number in (0, 1, 2, 4)] == [[]] * 4
    assert last_answer_of(fleet, 2, list(range(REPLICAS))) < ended + SECONDS_APART
