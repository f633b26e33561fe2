"""Checks a file of the registry again and again while the service runs, so that the replica follows it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

LOOK_EVERY_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0

_log = structlog.get_logger()


async def follow(what: str, look: Callable[[], Awaitable[None]], every_seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Call `look` again and again until this task is cancelled.

    A network volume can be unreadable for a while (ESTALE, EIO). When `look` raises, the error is logged and the pause
    before the next call doubles, up to LONGEST_PAUSE_SECONDS. After a success, the pause is `every_seconds` again.
    """
    pause = every_seconds
    while True:
        try:
            await look()
            pause = every_seconds
        except Exception as error:  # if this loop ended, the replica would never follow the file again
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            _log.error("cannot look", what=what, again_in_seconds=pause, exc_info=error)
        await asyncio.sleep(pause)
