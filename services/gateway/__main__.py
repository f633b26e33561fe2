"""Starts the gateway: the only place that reads its environment and wires its objects."""

import signal
import socket
import sys

import structlog
import uvicorn
from pydantic import ValidationError

from services.gateway.app import build_app
from services.gateway.peers import connect
from services.gateway.settings import Settings
from services.transport.logs import configure_logs
from services.transport.tether import end_with_supervisor

GRACE_SECONDS = 3

_log = structlog.get_logger()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, or end with one line that says what to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        sys.exit(f"cannot listen on {host}:{port}: {error.strerror}; set MOODFOOD_GATEWAY_PORT to a free one")
    return listener


def main() -> None:
    """Run the service until SIGINT or SIGTERM."""
    try:
        settings = Settings()
        configure_logs(settings.log_level)
    except (ValidationError, ValueError) as error:
        sys.exit(str(error))
    listener = listen(settings.host, settings.gateway_port)
    app = build_app(lambda: connect(settings), settings.max_body_bytes)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
        )
    )

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more afterwards; with these handlers that is no second death.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _log.info("gateway serving", address=f"http://{settings.host}:{listener.getsockname()[1]}")
    end_with_supervisor()
    server.run(sockets=[listener])
    _log.info("gateway stopped")


if __name__ == "__main__":
    main()
