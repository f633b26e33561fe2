"""Ends this process when the one that started it is gone, however it ended, so that no orphan keeps a port."""

import os
import select
import signal
import threading

SUPERVISOR_VARIABLE = "MOODFOOD_SUPERVISOR_PID"


def end_with_supervisor() -> None:
    """Send SIGTERM to this process once the process that MOODFOOD_SUPERVISOR_PID names is gone.

    Does nothing when the variable names no process. Needs pidfd, which Linux has; elsewhere the services of a
    supervisor that is killed go on running.
    """
    supervisor = os.environ.get(SUPERVISOR_VARIABLE, "")
    if supervisor.isdecimal() and hasattr(os, "pidfd_open"):
        threading.Thread(target=_wait_and_end, args=(int(supervisor),), name="supervisor", daemon=True).start()


def _wait_and_end(supervisor: int) -> None:
    try:
        descriptor = os.pidfd_open(supervisor)
    except ProcessLookupError:
        pass
    else:
        select.select([descriptor], [], [])
        os.close(descriptor)
    os.kill(os.getpid(), signal.SIGTERM)
