"""Servables that stay in memory and can serve at once: the one that served before and the one prepared last.

They have separate places, so that preparing a version never removes the version that a rollback goes to.
"""

import time
from collections.abc import Callable
from enum import Enum, auto

from services.inference.models.servable import Servable


class Place(Enum):
    """Why a servable is kept: it served before, or it was prepared."""

    FORMER = auto()
    PREPARED = auto()


class WarmShelf:
    """Keeps at most one servable in each place, for a limited time. Use it on the event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: dict[Place, tuple[Servable, float]] = {}

    def keep(self, place: Place, servable: Servable, seconds: float) -> None:
        """Keep a servable for so many seconds, instead of the one in that place. One without a model is not kept."""
        self._kept.pop(place, None)
        if seconds > 0 and servable.version > 0:
            self._kept[place] = (servable, self._now() + seconds)

    def get(self, version: int) -> Servable | None:
        """Return the servable of a version; None if it is not kept."""
        self.clear_expired()
        return next((servable for servable, _ in self._kept.values() if servable.version == version), None)

    def remove(self, version: int) -> None:
        """Remove a version, because it serves now."""
        self._kept = {place: kept for place, kept in self._kept.items() if kept[0].version != version}

    def clear_expired(self) -> None:
        """Remove the servables whose time is over. This frees their memory."""
        self._kept = {place: kept for place, kept in self._kept.items() if kept[1] > self._now()}

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that are kept, without repetition."""
        self.clear_expired()
        return tuple(dict.fromkeys(servable.version for servable, _ in self._kept.values()))
