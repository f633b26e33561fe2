"""What the first minutes say, against a scripted trainer, inference and gateway."""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.trainer.v1 import trainer_pb2 as pb
from moodfood.trainer.v1 import trainer_pb2_grpc

from services.cli.settings import Settings
from services.cli.up.readiness import announce
from services.cli.up.screen import Screen


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    version = 0

    def GetModelStatus(self, request: Any, context: Any) -> inference_pb2.GetModelStatusResponse:
        return inference_pb2.GetModelStatusResponse(version=self.version)


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Streams runs that the test puts in, the newest run first; None ends a stream."""

    def __init__(self) -> None:
        self.runs: Queue[pb.TrainingRun | None] = Queue()

    def WatchTrainingRun(self, request: Any, context: Any) -> Iterator[pb.WatchTrainingRunResponse]:
        while (run := self.runs.get()) is not None:
            yield pb.WatchTrainingRunResponse(run=run)
            if run.state != pb.RUN_STATE_RUNNING:
                return


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Stage:
    """The scripted services, and what the screen has shown so far."""

    def __init__(self, folder: Path) -> None:
        self.inference = Inference()  # type: ignore[abstract]  # the base class answers UNIMPLEMENTED to the rest
        self.trainer = Trainer()  # type: ignore[abstract]  # the same
        self.server = grpc.server(ThreadPoolExecutor(8))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.inference, self.server)
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(self.trainer, self.server)
        alive = health.HealthServicer()
        alive.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(alive, self.server)
        address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.settings = Settings(
            data_dir=folder,
            inference_address=address,
            trainer_address=address,
            gateway_port=self.http.server_address[1],
        )
        self.output = io.StringIO()
        self.screen = Screen(self.output)
        self.stopping = threading.Event()
        self.announcing = threading.Thread(
            target=announce, args=(self.settings, self.screen, self.stopping), daemon=True
        )

    def shown(self, text: str) -> list[str]:
        """Draw until a text was shown and return all lines up to then."""
        deadline = time.monotonic() + 20
        while text not in self.output.getvalue():
            self.screen.draw(0.05)
            assert time.monotonic() < deadline, self.output.getvalue()
        return self.output.getvalue().splitlines()

    def close(self) -> None:
        self.inference.version = 1
        self.trainer.runs.put(None)
        self.announcing.join(timeout=20)
        self.http.shutdown()
        self.http.server_close()
        self.server.stop(None).wait()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    built = Stage(tmp_path)
    yield built
    built.close()


def run(stage: "pb.RunStage.ValueType", state: "pb.RunState.ValueType" = pb.RUN_STATE_RUNNING, **more: Any) -> Any:
    now = Timestamp()
    now.GetCurrentTime()
    now.seconds += 1
    return pb.TrainingRun(run_id="r1", stage=stage, state=state, started_at=now, **more)


def test_a_restart_with_a_champion_is_ready_at_once(stage: Stage) -> None:
    stage.inference.version = 7
    stage.announcing.start()
    first, *others = stage.shown("moodfood status")
    assert first == f"ready: {stage.settings.gateway}"
    assert any(line.endswith("version 7") for line in others)


def test_keywords_answer_until_the_first_model_is_trained_and_each_stage_is_told(stage: Stage) -> None:
    stage.announcing.start()
    stage.shown("serving: ")
    for number in (pb.RUN_STAGE_COLLECT, pb.RUN_STAGE_TRAIN, pb.RUN_STAGE_TRAIN):
        stage.trainer.runs.put(run(number))
    stage.shown("train\n")
    assert "ready" not in stage.output.getvalue()
    stage.inference.version = 1
    stage.trainer.runs.put(run(pb.RUN_STAGE_PROMOTE, pb.RUN_STATE_SUCCEEDED))
    assert stage.shown("ready: ")[:4] == [
        f"serving: {stage.settings.gateway}  (keywords answer until the first model is trained)",
        "first training: collect",
        "first training: train",
        f"ready: {stage.settings.gateway}",
    ]


def test_a_first_training_that_fails_is_one_line_that_says_why_and_a_later_one_is_followed(stage: Stage) -> None:
    stage.announcing.start()
    stage.trainer.runs.put(run(pb.RUN_STAGE_COLLECT, pb.RUN_STATE_FAILED, reasons=["no examples", "none at all"]))
    assert stage.shown("tries again")[1:] == [
        "the first training failed: no examples; none at all (no model yet; `moodfood retrain` tries again)"
    ]
    later = run(pb.RUN_STAGE_TRAIN)
    later.run_id = "r2"
    stage.trainer.runs.put(later)
    stage.shown("first training: train")
    stage.inference.version = 1
    later.state = pb.RUN_STATE_SUCCEEDED
    stage.trainer.runs.put(later)
    stage.shown("ready: ")


def test_a_run_of_an_earlier_start_is_not_told(stage: Stage) -> None:
    stage.announcing.start()
    old = run(pb.RUN_STAGE_COLLECT, pb.RUN_STATE_FAILED, reasons=["old"])
    old.started_at.seconds -= 3600
    stage.trainer.runs.put(old)
    stage.trainer.runs.put(run(pb.RUN_STAGE_TRAIN))
    assert "old" not in "".join(stage.shown("first training: train"))


def test_a_run_that_ends_because_everything_stops_is_no_failed_training(stage: Stage) -> None:
    stage.announcing.start()
    stage.trainer.runs.put(run(pb.RUN_STAGE_UNSPECIFIED))
    stage.shown("first training: start")
    stage.stopping.set()
    stage.trainer.runs.put(run(pb.RUN_STAGE_TRAIN, pb.RUN_STATE_FAILED, reasons=["the trainer stops"]))
    stage.announcing.join(timeout=20)
    stage.screen.close()
    assert stage.output.getvalue().splitlines()[-1] == "first training: start"


def test_without_a_taxonomy_nothing_is_answered_before_the_first_model(stage: Stage) -> None:
    (stage.settings.data_dir / "examples").mkdir()
    stage.announcing.start()
    assert "(nothing is answered until the first model is trained)" in stage.shown("serving: ")[0]


def test_what_to_try_first_suits_the_data(stage: Stage) -> None:
    (stage.settings.data_dir / "examples").mkdir()
    stage.inference.version = 1
    stage.announcing.start()
    shown = "\n".join(stage.shown("moodfood status"))
    assert "/classify" in shown
    assert "/enhanced-recommend" not in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_a_service_line_does_not_steer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    screen = Screen(terminal)
    screen.show_stage("first training", "train", 40)
    screen.relay("trainer", "a query: \x1b[2J")
    screen.draw(1)
    screen.close()
    shown = terminal.getvalue()
    assert "40 %" in shown
    assert "a query: \\u001b[2J" in shown
