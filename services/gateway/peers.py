"""The two services behind the gateway: one shared channel each, and a deadline on every call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.trainer.v1 import experiments_pb2_grpc, scheduler_pb2_grpc, trainer_pb2_grpc

from services.gateway.settings import Settings

HEALTH_DEADLINE_SECONDS = 1.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

_OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),
    # A replica that comes back is used within a second instead of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A thousand training runs are more than the 4 MiB that gRPC takes by default.
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
)


class Peers:
    """Stubs of both services and the deadlines of their calls."""

    def __init__(self, inference: grpc.aio.Channel, trainer: grpc.aio.Channel, settings: Settings) -> None:
        self.inference: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(
            inference
        )
        self.trainer: trainer_pb2_grpc.TrainerServiceAsyncStub = trainer_pb2_grpc.TrainerServiceStub(trainer)
        self.scheduler: scheduler_pb2_grpc.SchedulerServiceAsyncStub = scheduler_pb2_grpc.SchedulerServiceStub(trainer)
        self.experiments: experiments_pb2_grpc.ExperimentServiceAsyncStub = experiments_pb2_grpc.ExperimentServiceStub(
            trainer
        )
        self.inference_health = health_pb2_grpc.HealthStub(inference)
        self.trainer_health = health_pb2_grpc.HealthStub(trainer)
        self.query_seconds = settings.query_deadline_seconds
        self.training_seconds = settings.training_deadline_seconds
        self.promotion_seconds = settings.promotion_deadline_seconds

    async def serving(self, health: Any) -> bool:
        """Say whether a service says that it serves."""
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Peers]:
    """Open the channels for as long as the gateway runs."""
    async with (
        grpc.aio.insecure_channel(settings.inference, options=_OPTIONS) as inference,
        grpc.aio.insecure_channel(settings.trainer, options=_OPTIONS) as trainer,
    ):
        yield Peers(inference, trainer, settings)
