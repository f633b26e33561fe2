"""What can go wrong before a process serves, and how it says so: one line on standard error, exit status 1."""

import errno
import socket
import sys
from collections.abc import Callable

from services.transport.settings import BadSetting, address


class PortTaken(Exception):
    """A process cannot listen where it should. The text says why and which variable to change."""


def listen(host: str, port: int, port_variable: str) -> socket.socket:
    """Return a socket that is bound to a host and a port.

    Raises:
        PortTaken: another process listens there, or the host is not an address of this machine.

    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _port_taken(host, port, port_variable, error) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(target)
    except OSError as error:
        listener.close()
        raise _port_taken(host, port, port_variable, error) from error
    return listener


def _port_taken(host: str, port: int, port_variable: str, error: OSError) -> PortTaken:
    port_is_at_fault = error.errno in {errno.EADDRINUSE, errno.EACCES}
    change = f"{port_variable} to a free port" if port_is_at_fault else "MOODFOOD_HOST to an address of this machine"
    return PortTaken(f"cannot listen on {address(host, port)}: {error.strerror or error}; set {change}")


def exit_on_setup_errors(main: Callable[[], None], *setup_errors: type[Exception]) -> None:
    """Run a process. Bad settings, a taken port and the errors named here end it with one line and exit status 1."""
    told: tuple[type[Exception], ...] = (BadSetting, PortTaken, *setup_errors)
    try:
        main()
    except told as error:
        sys.exit(str(error))
