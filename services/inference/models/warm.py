"""Servables kept aside, ready to serve at once: the one that served last, and the one that was prepared last.

Each has a place of its own, so that preparing a version never pushes out the version that a rollback goes to.
"""

import time
from collections.abc import Callable
from enum import Enum, auto

from services.inference.models.servable import Servable


class Place(Enum):
    """Why a servable is kept."""

    FORMER = auto()
    PREPARED = auto()


class WarmShelf:
    """At most one servable in each place, until its time is over. Lives on the event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: dict[Place, tuple[Servable, float]] = {}

    def keep(self, place: Place, servable: Servable, seconds: float) -> None:
        """Keep a servable in a place instead of what is there. The one without a model is not kept."""
        self._kept.pop(place, None)
        if seconds > 0 and servable.version > 0:
            self._kept[place] = (servable, self._now() + seconds)

    def get(self, version: int) -> Servable | None:
        """Return the servable of a version if it is here."""
        self.clear_expired()
        return next((servable for servable, _ in self._kept.values() if servable.version == version), None)

    def remove(self, version: int) -> None:
        """Let go of a version: it serves now."""
        self._kept = {place: kept for place, kept in self._kept.items() if kept[0].version != version}

    def clear_expired(self) -> None:
        """Let go of servables whose time is over, which frees their memory."""
        self._kept = {place: kept for place, kept in self._kept.items() if kept[1] > self._now()}

    @property
    def versions(self) -> tuple[int, ...]:
        """The numbers of the versions that are here, each once."""
        self.clear_expired()
        return tuple(dict.fromkeys(servable.version for servable, _ in self._kept.values()))
