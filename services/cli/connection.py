"""The one way to reach a running service: a stub whose calls have a deadline and whose errors become one line."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.longrunning import operations_grpc_pb2
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.trainer.v1 import experiments_pb2_grpc, scheduler_pb2_grpc, trainer_pb2_grpc

from services.cli.output import fail
from services.cli.settings import Settings
from services.transport.errors import DETAILS_KEY
from services.transport.serving import LARGE_RESPONSES
from services.transport.settings import load_settings

CALL_SECONDS = 10.0
PROMOTION_SECONDS = 60.0
CONNECT_SECONDS = 2.0

Stub = TypeVar("Stub")


@dataclass(frozen=True)
class Service(Generic[Stub]):
    """A gRPC service: its stub, and the address that the settings give it."""

    stub: Callable[[grpc.Channel], Stub]
    address: Callable[[Settings], str]


INFERENCE = Service(inference_pb2_grpc.InferenceServiceStub, lambda settings: settings.inference)
TRAINER = Service(trainer_pb2_grpc.TrainerServiceStub, lambda settings: settings.trainer)
EXPERIMENTS = Service(experiments_pb2_grpc.ExperimentServiceStub, lambda settings: settings.trainer)
SCHEDULER = Service(scheduler_pb2_grpc.SchedulerServiceStub, lambda settings: settings.trainer)
OPERATIONS = Service(operations_grpc_pb2.OperationsStub, lambda settings: settings.trainer)


@contextmanager
def reach(service: Service[Stub], seconds: float | None = CALL_SECONDS) -> Iterator[Stub]:
    """Yield a stub of a service; each of its calls may take so many seconds, or for ever with None.

    A failed call, and a file that cannot be read meanwhile, end the command with one line.
    """
    address = service.address(load_settings(Settings))
    try:
        with grpc.insecure_channel(address, options=(*LARGE_RESPONSES, *_deadline(seconds))) as channel:
            yield service.stub(channel)
    except grpc.RpcError as error:
        fail(call_problem(error, address))
    except OSError as error:
        fail(str(error))


def answers(target: str) -> bool:
    """Say whether somebody listens at the address of a service."""
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    with suppress(OSError, ValueError):
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        return True
    return False


def call_problem(error: grpc.RpcError, address: str) -> str:
    """Return in one line what a service answered, or that it did not answer."""
    code, details = error.code(), error.details() or ""
    # Our services send details of that kind with every error of theirs; gRPC itself sends none.
    metadata: Any = error.trailing_metadata() or ()
    told_by_service = DETAILS_KEY in dict(metadata)
    if code == grpc.StatusCode.UNAVAILABLE and not told_by_service:
        return f"nothing answers at {address}; start it with `moodfood up`, or set MOODFOOD_HOST and the ports"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED and not told_by_service:
        return f"{address} did not answer in time"
    return f"{code.name}: {details}"


def _deadline(seconds: float | None) -> tuple[tuple[str, str], ...]:
    """Return the channel option that gives every method a deadline.

    See https://github.com/grpc/grpc/blob/master/doc/service_config.md; an empty name means all methods.
    """
    if seconds is None:
        return ()
    return (("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "timeout": f"{seconds:.3f}s"}]})),)
