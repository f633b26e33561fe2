"""The three real processes on free ports, with folders of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc

from tests.conftest import ENCODER, ROOT

PATIENCE_SECONDS = 60.0
# Between two calls of one caller. Callers without a pause would take the processors from the training run beside them.
PAUSE_SECONDS = 0.02


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on at this moment."""
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return the condition's value as soon as it is true; fail when it does not become so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


@dataclass
class System:
    """Addresses, folders and processes of one running system."""

    data: Path
    models: Path
    environment: dict[str, str]
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    @property
    def inference(self) -> str:
        return f"127.0.0.1:{self.ports['inference']}"

    @property
    def trainer(self) -> str:
        return f"127.0.0.1:{self.ports['trainer']}"

    def start(self, name: str) -> None:
        log = (self.data / f"{name}.out").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"],
            cwd=ROOT, env=self.environment, stdout=log, stderr=log,
        )  # fmt: skip
        log.close()

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def freeze(self, name: str) -> None:
        """Stop a process from doing anything until it is thawed."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    def children(self, name: str) -> list[int]:
        """Return the processes that a service has started and that have not ended."""
        pid = self.processes[name].pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            assert process.returncode == 0, f"{process.args!r} ended with {process.returncode}"

    def call(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> tuple[int, dict[str, Any]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method or None, headers={"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def intent(self, text: str) -> str:
        code, answer = self.call("/classify", {"text": text})
        assert code == 200, answer
        return str(answer["primary_intent"])

    def version(self) -> int:
        code, answer = self.call("/model/status")
        return int(answer["version"]) if code == 200 else -1

    def begin(self, **body: Any) -> str:
        """Begin a training run and return its id."""
        code, answer = self.call("/retrain", body)
        assert code == 200, answer
        return str(answer["operation"]).removeprefix("operations/")

    def retrain(self, **body: Any) -> dict[str, Any]:
        """Retrain and return the run as it ended."""
        return self.ended(self.begin(**body))

    def wait_for_stage(self, run_id: str, stage: str) -> None:
        log = self.data / "logs" / "retrain.log"
        eventually(lambda: f"{run_id} api_triggered stage {stage}" in log.read_text(), f"stage {stage}")

    def ended(self, run_id: str) -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            code, run = self.call(f"/retrain/runs/{run_id}")
            return run if code == 200 and run["state"] != "running" else None

        run: dict[str, Any] = eventually(over, f"the end of {run_id}")
        return run

    def champion(self) -> bytes:
        """Return the content of the champion alias."""
        return (self.models / self.environment["MOODFOOD_MODEL"] / "champion").read_bytes()

    def events(self) -> list[dict[str, Any]]:
        lines = (self.data / "logs" / "query_logs.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == "retraining"]

    def ready(self) -> bool:
        return self.call("/health")[1].get("status") == "healthy" and self.version() > 0


@contextmanager
def system(data: Path, models: Path, model: str) -> Iterator[System]:
    """Start everything and wait until a model serves."""
    ports = dict(zip(("inference", "trainer", "gateway"), free_ports(3), strict=True))
    environment = {
        **os.environ,
        "MOODFOOD_DATA_DIR": str(data),
        "MOODFOOD_MODELS_DIR": str(models),
        "MOODFOOD_MODEL": model,
        "MOODFOOD_ENCODER_DIR": str(ENCODER),
        "MOODFOOD_TRAINER_METRICS_PORT": "0",
        **{f"MOODFOOD_{name.upper()}_PORT": str(port) for name, port in ports.items()},
    }
    running = System(data, models, environment, ports)
    try:
        for name in ports:
            running.start(name)
        eventually(running.ready, "a first model that serves")
        yield running
    finally:
        running.stop()


@dataclass
class Traffic:
    """What a closed loop of callers saw."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)


@contextmanager
def traffic(target: System, seconds_at_most: float = 60.0) -> Iterator[Traffic]:
    """Ask over REST and over gRPC, dozens of times a second on each, until the block ends."""
    seen, over, deadline = Traffic(), threading.Event(), time.monotonic() + seconds_at_most

    def ask_rest() -> None:
        while not over.wait(PAUSE_SECONDS) and time.monotonic() < deadline:
            code, answer = target.call("/classify", {"text": "rainy day and so sad"})
            if code == 200:
                seen.answered += 1
                seen.versions.add(answer["model_version"])
            else:
                seen.failures.append(f"REST {code} {answer}")

    def ask_grpc() -> None:
        with grpc.insecure_channel(target.inference) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            request = inference_pb2.ClassifyRequest(text="pizza and chocolate")
            while not over.wait(PAUSE_SECONDS) and time.monotonic() < deadline:
                try:
                    answer = stub.Classify(request, timeout=5)
                    seen.answered += 1
                    seen.versions.add(answer.classification.model_version)
                except grpc.RpcError as error:
                    seen.failures.append(f"gRPC {error}")

    threads = [threading.Thread(target=ask) for ask in (ask_rest, ask_grpc)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()
