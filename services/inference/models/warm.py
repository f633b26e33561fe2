"""Servables kept aside, ready to serve at once: prepared ones, and those that served until lately."""

import time
from collections.abc import Callable

from services.inference.models.servable import Servable

MAX_WARM = 2


class WarmShelf:
    """At most MAX_WARM servables, each until its time is over. Lives on the event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: dict[int, tuple[Servable, float]] = {}

    def put(self, servable: Servable, seconds: float) -> None:
        """Keep a servable for some seconds; the one that was put longest ago makes room for it."""
        self._kept.pop(servable.version, None)
        if seconds > 0 and servable.version > 0:
            self._kept[servable.version] = (servable, self._now() + seconds)
        while len(self._kept) > MAX_WARM:
            del self._kept[next(iter(self._kept))]

    def get(self, version: int) -> Servable | None:
        """Return the servable of a version if it is here."""
        self.clear_expired()
        kept = self._kept.get(version)
        return kept[0] if kept else None

    def clear_expired(self) -> None:
        """Let go of servables whose time is over, which frees their memory."""
        for version in [version for version, (_, until) in self._kept.items() if until <= self._now()]:
            del self._kept[version]

    @property
    def versions(self) -> tuple[int, ...]:
        """What is here, longest first."""
        self.clear_expired()
        return tuple(self._kept)
