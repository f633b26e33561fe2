"""Looks at a file of the registry again and again, for as long as the service runs."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

LOOK_EVERY_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0

_log = structlog.get_logger()


async def follow(what: str, look: Callable[[], Awaitable[None]], every_seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Call `look` until this task is cancelled.

    A network volume may refuse to be read for a while (ESTALE, EIO). A look that fails is logged, and the pause before
    the next one doubles, up to LONGEST_PAUSE_SECONDS. One that succeeds ends the longer pauses.
    """
    pause = every_seconds
    while True:
        try:
            await look()
            pause = every_seconds
        except Exception as error:  # nothing may end the following, or the replica stays behind for good
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            _log.error("cannot look", what=what, again_in_seconds=pause, exc_info=error)
        await asyncio.sleep(pause)
