"""Runs one gRPC server until SIGINT or SIGTERM, then lets calls in flight finish."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
import structlog
from grpc_reflection.v1alpha import reflection

from services.transport.errors import ErrorInterceptor, ErrorTable
from services.transport.health import add_health
from services.transport.tether import end_with_supervisor

SHUTDOWN_GRACE_SECONDS = 3.0
MAX_CONCURRENT_CALLS = 1000
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_log = structlog.get_logger()


class PortTaken(Exception):
    """Another process listens on the port; the text names it and the variable that changes it."""


def build_server(errors: ErrorTable) -> grpc.aio.Server:
    """Return a server with the limits and the error mapping that all services share."""
    return grpc.aio.server(
        interceptors=[ErrorInterceptor(errors)],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        options=[
            # Without this two servers can bind one port and each gets half of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ],
    )


def bind(server: grpc.aio.Server, host: str, port: int, port_variable: str) -> int:
    """Bind the server and return its port (the chosen one for port 0).

    Raises:
        PortTaken: somebody listens there already, or the host is not ours.

    """
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise PortTaken(f"cannot listen on {host}:{port}: the port is taken; set {port_variable} to a free one")
    return bound


async def start(server: grpc.aio.Server, service_names: Sequence[str]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Add health and reflection, start, and return the coroutine function that stops the server gracefully."""
    health = await add_health(server, service_names)
    reflection.enable_server_reflection((*service_names, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    await server.start()

    async def stop() -> None:
        await health.enter_graceful_shutdown()
        await server.stop(SHUTDOWN_GRACE_SECONDS)

    return stop


async def until_signal() -> str:
    """Wait for SIGINT or SIGTERM and return its name; the end of the supervisor counts as SIGTERM."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[str] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number.name)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, receive, number)
    end_with_supervisor()
    return await received


def exit_on_setup_errors(main: Callable[[], None], *setup_errors: type[Exception]) -> None:
    """Run a service; what the operator can mend becomes one line on standard error and exit status 1."""
    try:
        main()
    except Exception as error:
        if not isinstance(error, (PortTaken, *setup_errors)):
            raise
        sys.exit(str(error))
