"""Ends this process when the one that supervises it is gone, however that ended: no orphan keeps a port."""

import os
import select
import signal
import threading

SUPERVISOR_VARIABLE = "MOODFOOD_SUPERVISOR_PID"


def end_with_supervisor() -> None:
    """Send SIGTERM to this process once the process of MOODFOOD_SUPERVISOR_PID is gone; without one do nothing.

    Needs pidfd (Linux); elsewhere a supervisor that is killed leaves its services running.
    """
    supervisor = os.environ.get(SUPERVISOR_VARIABLE, "")
    if supervisor.isdecimal() and hasattr(os, "pidfd_open"):
        threading.Thread(target=_wait_and_end, args=(int(supervisor),), name="tether", daemon=True).start()


def _wait_and_end(supervisor: int) -> None:
    try:
        descriptor = os.pidfd_open(supervisor)
    except ProcessLookupError:
        pass
    else:
        select.select([descriptor], [], [])
        os.close(descriptor)
    os.kill(os.getpid(), signal.SIGTERM)
