"""Runs one gRPC server until a signal, then lets the calls in flight finish."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
import structlog
from grpc_reflection.v1alpha import reflection

from services.transport.errors import ErrorInterceptor, ErrorTable
from services.transport.health import add_health
from services.transport.settings import address
from services.transport.startup import PortTaken, listen
from services.transport.supervisor import end_with_supervisor

SHUTDOWN_GRACE_SECONDS = 3.0
MAX_CONCURRENT_CALLS = 1000
MAX_REQUEST_BYTES = 4 * 1024 * 1024
# Lists of runs and versions are long; what a client sends is not.
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MIN_PING_MILLISECONDS = 10_000

# Options of a channel that asks for such lists; without them a client takes 4 MiB.
LARGE_RESPONSES = (("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),)

_log = structlog.get_logger()


def build_server(errors: ErrorTable) -> grpc.aio.Server:
    """Return a server with the limits and the error mapping that all services share."""
    return grpc.aio.server(
        interceptors=[ErrorInterceptor(errors)],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        options=[
            # Without this two servers can bind one port and each gets half of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
            # A caller may ask this often whether a quiet stream is still alive; by default it is cut off for that.
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MILLISECONDS),
        ],
    )


def bind(server: grpc.aio.Server, host: str, port: int, port_variable: str) -> int:
    """Bind the server and return its port, which the system chooses for port 0.

    Raises:
        PortTaken: another process listens there, or the host is not an address of this machine.

    """
    try:
        bound = server.add_insecure_port(address(host, port))
    except RuntimeError:
        bound = 0
    if bound == 0:
        # gRPC does not say why; the system does.
        listen(host, port, port_variable).close()
        raise PortTaken(f"cannot listen on {address(host, port)}; set {port_variable} to a free port")
    return bound


async def start(server: grpc.aio.Server, service_names: Sequence[str]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Add health and reflection and start the server; return the coroutine function that stops it gracefully."""
    health = await add_health(server, service_names)
    reflection.enable_server_reflection((*service_names, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    await server.start()

    async def stop() -> None:
        await health.enter_graceful_shutdown()
        await server.stop(SHUTDOWN_GRACE_SECONDS)

    return stop


async def until_signal() -> str:
    """Wait for SIGINT or SIGTERM and return its name. The end of the supervisor sends SIGTERM."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[str] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number.name)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, receive, number)
    end_with_supervisor()
    return await received
