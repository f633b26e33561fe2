"""Checks a file of the registry again and again while the service runs, so that the replica follows it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from services.inference.errors import InferenceError

LOOK_EVERY_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_PATIENCE_SECONDS = 60.0

_log = structlog.get_logger()


async def follow(what: str, look: Callable[[], Awaitable[None]], every_seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Call `look` again and again until this task is cancelled.

    A network volume or a bucket can be unreadable for a while. When `look` raises, the error is logged and the pause
    before the next call doubles, up to LONGEST_PAUSE_SECONDS. After a success, the pause is `every_seconds` again.
    """
    pause = every_seconds
    while True:
        try:
            await look()
            pause = every_seconds
        except InferenceError as error:
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            _log.error("cannot look", what=what, again_in_seconds=pause, problem=str(error))
        except Exception as error:  # if this loop ended, the replica would never follow the file again
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            _log.error("cannot look", what=what, again_in_seconds=pause, exc_info=error)
        await asyncio.sleep(pause)


class Patience:
    """Says when to try again what failed: at the next look, then after 1 s, 2 s, 4 s, and at last every 60 s.

    Loading a version can mean fetching it, so a version that cannot be loaded is not tried at every look.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failed: object = None
        self._pause = 0.0
        self._again_at = 0.0

    def allows(self, attempt: object) -> bool:
        """Say whether to try now. What did not fail last may be tried at once."""
        return attempt != self._failed or self._now() >= self._again_at

    def note_failure(self, attempt: object) -> None:
        """Note that an attempt failed."""
        self._pause = 0.0 if attempt != self._failed else min(max(1.0, 2 * self._pause), LONGEST_PATIENCE_SECONDS)
        self._failed, self._again_at = attempt, self._now() + self._pause
