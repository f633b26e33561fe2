"""Says what somebody who has just started everything can do: at first keywords answer, then a trained model."""

import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from services.cli.output import enum_word
from services.cli.settings import Settings
from services.cli.up.screen import Screen

CALL_SECONDS = 1.0
POLL_SECONDS = 0.2

# What to try first: recommendations need dishes.
RECOMMEND = ("/enhanced-recommend", '{"text_input": "rainy day, I want something warm and cozy"}')
CLASSIFY = ("/classify", '{"text": "a text to classify"}')

FAILED = (trainer_pb2.RUN_STATE_FAILED, trainer_pb2.RUN_STATE_REJECTED, trainer_pb2.RUN_STATE_CANCELLED)


def announce(settings: Settings, screen: Screen, stopping: Event) -> None:
    """Say where the services answer, show the first training, and say `ready` once a trained model answers."""
    began = time.time()
    while not all_answer(settings):
        if stopping.wait(POLL_SECONDS):
            return
    if not serving_version(settings):
        meanwhile = "keywords answer" if settings.taxonomy_path else "nothing is answered"
        screen.say(f"serving: {settings.gateway}  ({meanwhile} until the first model is trained)")
        show_training(settings, screen, stopping, began)
        screen.end_work()
    if not stopping.is_set():
        say_ready(settings, screen)


def say_ready(settings: Settings, screen: Screen) -> None:
    """Print the addresses and what to try first."""
    path, body = RECOMMEND if settings.catalogue_path else CLASSIFY
    screen.say(
        f"ready: {settings.gateway}",
        f"  gateway    {settings.gateway}  (API documentation: {settings.gateway}/docs)",
        f"  inference  {settings.inference}  (gRPC)",
        f"  trainer    {settings.trainer}  (gRPC)",
        f"  model      {settings.model}, version {serving_version(settings)}",
        "try:",
        f"  curl -s {settings.gateway}{path} -H 'content-type: application/json' -d '{body}'",
        f"  curl -s -X POST {settings.gateway}/retrain",
        f"  {shlex.quote(str(Path(sys.executable).with_name('moodfood')))} status",
    )


def show_training(settings: Settings, screen: Screen, stopping: Event, since: float) -> None:
    """Show training runs begun since a moment, and why one made no model, until a model serves."""
    told = ""
    while not serving_version(settings) and not stopping.is_set():
        for run in changes_of_newest_run(settings.trainer):
            if run.started_at.ToMilliseconds() < 1000 * since:
                break
            if run.state == trainer_pb2.RUN_STATE_RUNNING:
                screen.show_stage("first training", stage_word(run), run.percent)
            elif run.state in FAILED and run.run_id != told and not stopping.is_set():
                told = run.run_id
                screen.end_work()
                state, why = enum_word(trainer_pb2.RunState, run.state), "; ".join(run.reasons) or "no reason given"
                screen.say(f"the first training {state}: {why} (no model yet; `moodfood retrain` tries again)")
        stopping.wait(POLL_SECONDS)


def stage_word(run: trainer_pb2.TrainingRun) -> str:
    """Return the stage of a run in one word."""
    return enum_word(trainer_pb2.RunStage, run.stage) if run.stage else "start"


def changes_of_newest_run(trainer: str) -> Iterator[trainer_pb2.TrainingRun]:
    """Yield the newest run now and after every change until it ends; nothing if there is none."""
    try:
        with grpc.insecure_channel(trainer) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            for change in stub.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest()):
                yield change.run
    except grpc.RpcError:
        return


def all_answer(settings: Settings) -> bool:
    """Say whether queries, feedback and REST calls are answered."""
    return gateway_is_ready(settings) and serves(settings.trainer) and serving_version(settings) is not None


def gateway_is_ready(settings: Settings) -> bool:
    """Say whether the gateway can answer queries."""
    try:
        with urllib.request.urlopen(f"{settings.gateway}/readyz", timeout=CALL_SECONDS) as answer:  # noqa: S310 - ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def serves(address: str) -> bool:
    """Say whether a gRPC service says that it serves."""
    try:
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def serving_version(settings: Settings) -> int | None:
    """Return the version in service, 0 for none; None when inference does not answer."""
    try:
        with grpc.insecure_channel(settings.inference) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            return stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=CALL_SECONDS).version
    except grpc.RpcError:
        return None
