"""The standard gRPC health service. It adds the method List, which the library leaves out of its asyncio servicer."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

SERVING = health_pb2.HealthCheckResponse.SERVING


class HealthServicer(aio.HealthServicer):
    """`grpc.health.v1.Health` with Check, Watch and List."""

    async def List(
        self, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> health_pb2.HealthListResponse:
        """Return the state of every service, the overall one under the empty name."""
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=status) for name, status in self._server_status.items()
            }
        )


async def add_health(server: grpc.aio.Server, service_names: Sequence[str]) -> HealthServicer:
    """Add the health service to a server. It says SERVING for the whole server and for every service named."""
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *service_names):
        await servicer.set(name, SERVING)
    return servicer
