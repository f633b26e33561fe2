"""Starts the gateway: the only place that reads its environment and wires its objects."""

import signal

import structlog
import uvicorn

from services.gateway.app import build_app
from services.gateway.peers import connect
from services.gateway.settings import Settings
from services.transport.logs import configure_logs
from services.transport.settings import address, load_settings
from services.transport.startup import exit_on_setup_errors, listen
from services.transport.supervisor import end_with_supervisor

GRACE_SECONDS = 3

_log = structlog.get_logger()


def main() -> None:
    """Run the service until SIGINT or SIGTERM."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    listener = listen(settings.host, settings.gateway_port, "MOODFOOD_GATEWAY_PORT")
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
    _log.info("gateway serving", address=f"http://{address(settings.host, listener.getsockname()[1])}")
    end_with_supervisor()
    server.run(sockets=[listener])
    _log.info("gateway stopped")


if __name__ == "__main__":
    exit_on_setup_errors(main)
