"""Five inference processes under load while the champion changes and some of them die, freeze or come back late."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.registry.v1.manifest_pb2 import Manifest, RuleResult

from services.trainer.database.leases import CHAMPION
from services.trainer.registry.alias import Alias, Move
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout import replicas as rollout
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change, ChangeResult
from tests.conftest import ROOT
from tests.registries import MODEL, database_beside, leases_of, open_registry
from tests.system import eventually, free_ports

pytestmark = pytest.mark.timeout(180)

REPLICAS = 5
# The longest that two versions may be served after a change has ended.
SECONDS_APART = 5.0


@dataclass
class Fleet:
    """Inference processes by number, their addresses, and what one caller of each saw."""

    models: Path
    environment: dict[str, str]
    ports: list[int]
    folder: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    failures: dict[int, list[str]] = field(default_factory=dict)
    answers: dict[int, list[tuple[float, int]]] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def registry(self) -> ModelRegistry:
        return open_registry(self.models)

    def start(self, number: int) -> None:
        with (self.folder / f"replica-{number}.out").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", "services.inference"],
                cwd=ROOT,
                env={**self.environment, "MOODFOOD_INFERENCE_PORT": str(self.ports[number])},
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

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


@pytest.fixture(scope="module")
def shared_fleet(small_data: Path, trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    models = folder / "models"
    shutil.copytree(trained_models, models)
    environment = {
        **os.environ,
        "MOODFOOD_DATA_DIR": str(small_data),
        "MOODFOOD_LOGS_DIR": str(folder / "logs"),
        "MOODFOOD_MODELS_DIR": str(models),
        "MOODFOOD_MODEL": MODEL,
        "MOODFOOD_ENCODER_DIR": str(folder / "no-encoder"),
    }
    subject = Fleet(models, environment, free_ports(REPLICAS), folder)
    for number in range(REPLICAS):
        subject.start(number)
    try:
        yield subject
    finally:
        for process in subject.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def fleet(shared_fleet: Fleet, trained_models: Path) -> Fleet:
    """Five running replicas on version 1, whatever a test before has done to them and to the files of version 2."""
    for number, process in shared_fleet.processes.items():
        process.send_signal(signal.SIGCONT)
        if process.poll() is not None:
            shared_fleet.start(number)
    shutil.copytree(trained_models / MODEL / "2", shared_fleet.models / MODEL / "2", dirs_exist_ok=True)
    eventually(lambda: -1 not in shared_fleet.versions(), "five replicas that answer")
    if shared_fleet.versions() != [1] * REPLICAS:
        promote(shared_fleet, 1)
    eventually(lambda: shared_fleet.versions() == [1] * REPLICAS, "five replicas on version 1")
    return shared_fleet


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


async def passes(_manifest: Manifest) -> list[RuleResult]:
    return [RuleResult(rule="rehearsal_loads", passed=True)]


def promote(fleet: Fleet, version: int, registry: ModelRegistry | None = None) -> ChangeResult:
    registry = registry or fleet.registry
    change = Change(version, registry.alias.version(), "test", "fault injection", must_reach=True)
    return asyncio.run(Champion(registry, leases_of(registry), fleet.targets, passes).promote(change))


def last_answer_of(fleet: Fleet, version: int, numbers: list[int]) -> float:
    return max((at for number in numbers for at, served in fleet.answers[number] if served == version), default=0.0)


def wait_for_an_answer_of_each(fleet: Fleet) -> None:
    """Wait until every replica has answered a query that was asked after now."""
    now = time.monotonic()
    eventually(
        lambda: all(answers and answers[-1][0] > now for answers in fleet.answers.values()),
        "an answer of every replica",
    )


class KillingAlias(Alias):
    """Kills a replica when every replica has prepared a change and none has been asked to commit it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        registry = fleet.registry
        super().__init__(registry.repository, database_beside(fleet.models), MODEL, registry.history)
        self._fleet, self._number = fleet, number

    def begin_move(self, *change: Any, **expected: Any) -> Move:
        move = super().begin_move(*change, **expected)
        self._fleet.kill(self._number)
        return move


def killing_registry(fleet: Fleet, number: int) -> ModelRegistry:
    registry = open_registry(fleet.models)
    registry.alias = KillingAlias(fleet, number)
    return registry


def kill_when_a_change_has_begun(fleet: Fleet, number: int) -> threading.Thread:
    """Freeze a replica, so that it prepares nothing, and kill it as soon as a change has begun."""
    leases = leases_of(fleet.registry)
    fleet.signal(number, signal.SIGSTOP)

    def run() -> None:
        eventually(lambda: leases.is_held(CHAMPION), "a change")
        fleet.kill(number)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_replica_killed_while_it_prepares_stops_nobody_and_comes_back_on_the_champion(fleet: Fleet) -> None:
    with load(fleet):
        killer = kill_when_a_change_has_begun(fleet, 4)
        change = promote(fleet, 2)
        killer.join()
        assert_only_the_last_was_not_reached(fleet, change, "not reached while preparing")


def test_replica_killed_before_it_commits_stops_nobody_and_comes_back_on_the_champion(fleet: Fleet) -> None:
    with load(fleet):
        change = promote(fleet, 2, killing_registry(fleet, 4))
        assert_only_the_last_was_not_reached(fleet, change, "not reached while committing")


def assert_only_the_last_was_not_reached(fleet: Fleet, change: ChangeResult, problem: str) -> None:
    ended, healthy = time.monotonic(), [0, 1, 2, 3]
    assert [replica.target for replica in change.replicas] == fleet.targets
    assert [replica.problem for replica in change.replicas[:4]] == [""] * 4
    assert change.replicas[4].problem.startswith(problem)
    fleet.start(4)
    eventually(lambda: fleet.versions() == [2] * REPLICAS, "five replicas on version 2", 20)
    wait_for_an_answer_of_each(fleet)
    assert [fleet.failures[number] for number in healthy] == [[], [], [], []]
    assert last_answer_of(fleet, 1, healthy) < ended + SECONDS_APART


def test_frozen_replica_stops_nobody_and_converges_when_it_thaws(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "PREPARE_DEADLINE_SECONDS", 1.0)
    with load(fleet):
        fleet.signal(0, signal.SIGSTOP)
        change = promote(fleet, 2)
        ended = time.monotonic()
        assert fleet.versions()[1:] == [2] * (REPLICAS - 1)
        fleet.signal(0, signal.SIGCONT)
        thawed = time.monotonic()
        eventually(lambda: fleet.version(0) == 2, "the thawed replica on version 2", SECONDS_APART)
        wait_for_an_answer_of_each(fleet)
    assert [fleet.failures[number] for number in range(1, REPLICAS)] == [[]] * (REPLICAS - 1)
    assert last_answer_of(fleet, 1, list(range(1, REPLICAS))) < ended + SECONDS_APART
    assert last_answer_of(fleet, 1, [0]) < thawed + SECONDS_APART
    assert change.replicas[0].problem.startswith("not reached while preparing")


def test_replica_back_after_many_changes_follows_the_newest_and_is_never_sent_to_an_old_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "PREPARE_DEADLINE_SECONDS", 1.0)
    fleet.signal(0, signal.SIGSTOP)
    for version in (2, 1, 2):
        promote(fleet, version)
    fleet.signal(0, signal.SIGCONT)
    eventually(lambda: fleet.version(0) == 2, "the late replica on the newest version", SECONDS_APART)
    with grpc.insecure_channel(fleet.targets[0]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="older than"):
            stub.ReloadModel(inference_pb2.ReloadModelRequest(version=1, generation=2), timeout=5)
    assert fleet.versions() == [2] * REPLICAS


def test_replica_whose_files_are_damaged_between_the_phases_sends_everybody_back(
    fleet: Fleet,
) -> None:
    """A replica that restarts between the phases has nothing aside and must load; the files are gone by then."""
    generation = fleet.registry.alias.next_generation()
    with load(fleet):
        results = asyncio.run(rollout.prepare(fleet.targets, 2, generation))
        assert [result.done for result in results] == [True] * REPLICAS
        graph = fleet.registry.folder / "2" / "model.onnx"
        fleet.kill(3)
        graph.write_bytes(b"damaged")
        fleet.start(3)
        eventually(lambda: fleet.version(3) == 1, "the restarted replica")
        committed = asyncio.run(rollout.commit(fleet.targets, 2, generation))
        assert [result.refused for result in committed] == [False, False, False, True, False]
        asyncio.run(Champion(fleet.registry, leases_of(fleet.registry), fleet.targets, passes).recover())
        ended = time.monotonic()
        eventually(lambda: fleet.versions() == [1] * REPLICAS, "everybody back on version 1", SECONDS_APART)
        wait_for_an_answer_of_each(fleet)
    assert [fleet.failures[number] for number in (0, 1, 2, 4)] == [[]] * 4
    assert last_answer_of(fleet, 2, list(range(REPLICAS))) < ended + SECONDS_APART
