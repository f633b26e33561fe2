"""What can go wrong before a process serves, and how it says so: one line on standard error, exit status 1."""

import socket
import sys
from collections.abc import Callable

from services.transport.settings import BadSetting, address


class PortTaken(Exception):
    """A process cannot listen where it should."""

    def __init__(self, where: str, problem: str, variable: str) -> None:
        super().__init__(f"cannot listen on {where}: {problem}; set {variable} to a free port")


def listen(host: str, port: int, port_variable: str) -> socket.socket:
    """Return a socket that is bound to a host and a port.

    Raises:
        PortTaken: another process listens there, or the host is not an address of this machine.

    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortTaken(address(host, port), error.strerror or str(error), port_variable) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(target)
    except OSError as error:
        listener.close()
        raise PortTaken(address(host, port), error.strerror or str(error), port_variable) from error
    return listener


def exit_on_setup_errors(main: Callable[[], None], *setup_errors: type[Exception]) -> None:
    """Run a process. Bad settings, a taken port and the errors named here end it with one line and exit status 1."""
    told: tuple[type[Exception], ...] = (BadSetting, PortTaken, *setup_errors)
    try:
        main()
    except told as error:
        sys.exit(str(error))
