"""Services behind the gateway that answer every call with a message of their choice, or with an error."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import httpx
from google.longrunning import operations_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.trainer.v1 import (
    experiments_pb2,
    experiments_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
)

from services.gateway.app import build_app
from services.gateway.peers import connect
from services.gateway.settings import Settings
from services.inference.error_table import ERROR_TABLE as INFERENCE_ERRORS
from services.trainer.api.error_table import ERROR_TABLE as TRAINER_ERRORS
from services.transport.health import add_health
from services.transport.serving import build_server

AWAY = "127.0.0.1:1"
NOON = 1_755_691_200  # 2025-08-20, 12:00 UTC

Change = Callable[[Any], None]
_RESPONSES = {
    method.name: getattr(module, method.output_type.name)
    for module in (inference_pb2, trainer_pb2, experiments_pb2, scheduler_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.output_type.file is module.DESCRIPTOR
}


def fill(message: Message) -> None:
    """Give every field, nested ones included, a value that is not its default and tells which field it is."""
    for field in message.DESCRIPTOR.fields:
        held = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            held["some"] = field.number
        elif field.message_type:
            _fill_message(held.add() if field.is_repeated else held, field.number)
        elif field.is_repeated:
            held.append(_value(field))
        else:
            setattr(message, field.name, _value(field))


def _fill_message(message: Any, number: int) -> None:
    if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
        message.seconds, message.nanos = NOON + number, 500_000_000
    else:
        fill(message)


def _value(field: Any) -> Any:
    if field.enum_type:
        return field.enum_type.values[-1].number
    if field.name == "margin":
        return math.inf
    if field.type == FieldDescriptor.TYPE_BYTES:
        return field.name.encode()
    return {
        FieldDescriptor.CPPTYPE_STRING: f"{field.name} of {field.containing_type.name}",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: field.number / 16,
    }.get(field.cpp_type, field.number)


def give(*messages: Message) -> Change:
    """Return a change that makes an answer one of these messages, by its type."""
    by_type = {type(message): message for message in messages}

    def change(message: Message) -> None:
        if type(message) in by_type:
            message.CopyFrom(by_type[type(message)])

    return change


class Answering:
    """Answers every method with its message, changed by `change`, or raises what it was told to; keeps the requests."""

    def __init__(self, change: Change = lambda _message: None, error: Exception | None = None) -> None:
        self.change = change
        self.error = error
        self.requests: list[Any] = []

    def _answer(self, name: str, request: Any) -> Any:
        self.requests.append(request)
        if self.error:
            raise self.error
        answer = _RESPONSES[name]()
        self.change(answer)
        return answer

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)

        async def answer(request: Any, context: Any) -> Any:
            return self._answer(name, request)

        return answer

    async def Retrain(self, request: Any, context: Any) -> operations_pb2.Operation:
        self.requests.append(request)
        if self.error:
            raise self.error
        run = trainer_pb2.TrainingRun()
        self.change(run)
        operation = operations_pb2.Operation(name="operations/run-1")
        operation.metadata.Pack(run)
        return operation

    async def ImportExamples(self, requests: Any, context: Any) -> Any:
        data = b"".join([request.data async for request in requests])
        return self._answer("ImportExamples", data)

    async def ExportExamples(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield self._answer("ExportExamples", request)


@asynccontextmanager
async def gateway(
    inference: Any = None, trainer: Any = None, max_body_bytes: int = 1_000_000
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the real application over real channels; a service that is None is away."""
    async with AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(_serving(inference, INFERENCE_ERRORS, _add_inference)),
            await stack.enter_async_context(_serving(trainer, TRAINER_ERRORS, _add_trainer)),
        ]
        settings = Settings(inference_address=addresses[0], trainer_address=addresses[1], query_deadline_seconds=2.0)
        app = build_app(lambda: connect(settings), max_body_bytes)
        transport = httpx.ASGITransport(cast("Any", app), raise_app_exceptions=False)
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client


@asynccontextmanager
async def _serving(servicer: Any, errors: Any, add: Callable[[Any, Any], None]) -> AsyncIterator[str]:
    if servicer is None:
        yield AWAY
        return
    server = build_server(errors)
    add(servicer, server)
    await add_health(server, [])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def _add_inference(servicer: Any, server: Any) -> None:
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)


def _add_trainer(servicer: Any, server: Any) -> None:
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
    experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(servicer, server)
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)
