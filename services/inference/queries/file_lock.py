"""Locks a file or a folder for as long as its descriptor is open. The kernel frees the lock when the process dies."""

import fcntl
import os
from pathlib import Path


def open_locked(path: Path, flags: int) -> int | None:
    """Open and lock what a path names; None while another process, or another descriptor of this one, has the lock.

    Close the descriptor to free the lock. Raises OSError when the path cannot be opened or locked.
    """
    while True:
        descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        # Between the two calls, the former owner may have put another file in its place, or removed it.
        if is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def is_at(path: Path, descriptor: int) -> bool:
    """Say whether the path names the open file."""
    try:
        named, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
