"""Starts inference, trainer and gateway on this machine and says when everything answers."""

import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import honcho.manager
from grpc_health.v1 import health_pb2, health_pb2_grpc
from honcho.printer import Printer
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc

from services.cli.settings import Settings

KILL_AFTER_SECONDS = 4
POLL_SECONDS = 0.2

SERVICES = ("inference", "trainer", "gateway")


def start_everything(settings: Settings) -> int:
    """Run the three services until a signal or until one of them ends; return the exit status."""
    problem = taken_port(settings)
    if problem:
        print(problem, file=sys.stderr)  # noqa: T201 - the command's output
        return 1
    honcho.manager.KILL_WAIT = KILL_AFTER_SECONDS
    manager = honcho.manager.Manager(Printer(sys.stdout))
    environment = settings.process_environment()
    for name in SERVICES:
        manager.add_process(name, f"exec {sys.executable} -m services.{name}", env=environment)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    threading.Thread(target=announce, args=(settings,), daemon=True).start()
    manager.loop()
    asked_to_stop = manager.returncode in {signal.SIGINT + 128, signal.SIGTERM + 128}
    return 0 if asked_to_stop else int(manager.returncode or 1)


def taken_port(settings: Settings) -> str:
    """Return one line about the first port that is taken, or the empty string."""
    for variable, port in (
        ("MOODFOOD_GATEWAY_PORT", settings.gateway_port),
        ("MOODFOOD_INFERENCE_PORT", settings.inference_port),
        ("MOODFOOD_TRAINER_PORT", settings.trainer_port),
    ):
        with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                return f"cannot listen on {settings.host}:{port}: {error.strerror}; set {variable} to a free port"
    return ""


def announce(settings: Settings) -> None:
    """Print the addresses as soon as every service answers, and again when the first model serves."""
    version = wait_until_ready(settings)
    model = f"version {version}" if version else "the first one is in training; the keyword stage answers until then"
    say(
        f"ready: {settings.gateway}",
        f"  gateway    {settings.gateway}  (API documentation: {settings.gateway}/docs)",
        f"  inference  {settings.inference}  (gRPC)",
        f"  trainer    {settings.trainer}  (gRPC)",
        f"  model      {model}",
        "try:",
        f"  curl -s {settings.gateway}/enhanced-recommend -H 'content-type: application/json' "
        """-d '{"text_input": "rainy day, I want something warm and cozy"}'""",
        f"  curl -s -X POST {settings.gateway}/retrain",
        f"  {sys.executable.removesuffix('python').removesuffix('python3')}moodfood status",
    )
    if version == 0:
        while (version := serving_version(settings)) < 1:
            time.sleep(POLL_SECONDS)
        say(f"model: version {version} serves now")


def wait_until_ready(settings: Settings) -> int:
    """Return the version in service, 0 for none, once gateway, inference and trainer all answer."""
    while not (gateway_ready(settings) and serving(settings.trainer) and serving_version(settings) >= 0):
        time.sleep(POLL_SECONDS)
    return serving_version(settings)


def gateway_ready(settings: Settings) -> bool:
    """Say whether the gateway can answer queries."""
    try:
        with urllib.request.urlopen(f"{settings.gateway}/readyz", timeout=1) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def serving(address: str) -> bool:
    """Say whether a gRPC service says that it serves."""
    try:
        with grpc.insecure_channel(address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def serving_version(settings: Settings) -> int:
    """Return the version in service, 0 for none, -1 when inference does not answer."""
    try:
        with grpc.insecure_channel(settings.inference) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            return stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=1).version
    except grpc.RpcError:
        return -1


def say(*lines: str) -> None:
    """Print lines together."""
    print("\n".join(lines), flush=True)  # noqa: T201 - the command's output
