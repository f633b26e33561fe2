"""Holds the one reference to the serving servable and swaps it.

Readers take `current` once per request and need no lock: assignment of a reference is atomic, a request is answered
wholly by the servable it took, and the last request to drop an old servable frees it. At most one reload at a time.
What is prepared, and what served until lately, waits on a shelf, so that a commit and a rollback are one assignment.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from services.inference.errors import InferenceError, NothingLoaded, ReloadInProgress, StaleGeneration
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.models.warm import WarmShelf

CONVERGE_EVERY_SECONDS = 1.0
KEEP_PREPARED_SECONDS = 60.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class Reloaded:
    """The outcome of a reload."""

    version: int
    previous_version: int
    already_serving: bool
    load_seconds: float
    prepared: bool = False


class ModelHolder:
    """Owner of the serving servable. Lives on the event loop; loading runs in a thread."""

    def __init__(self, repository: RegistryReader, loader: Loader, keep_warm_seconds: float) -> None:
        self._repository = repository
        self._loader = loader
        self._keep_warm_seconds = keep_warm_seconds
        self._reloading = False
        self.current: Servable = loader.without_model()
        self.warm = WarmShelf()
        self.last_error = ""

    async def prepare(self, version: int, generation: int) -> Reloaded:
        """Load a version and keep it aside; 0 means the champion. Raises as `reload` does."""
        return await self._alone(version, generation, commit=False)

    async def reload(self, version: int, generation: int) -> Reloaded:
        """Swap to a version; 0 means the champion. Generation 0 means the alias's present one.

        Raises:
            ReloadInProgress, NothingLoaded, ModelVersionNotFound, ModelRejected, StaleGeneration: `current` is
            untouched.

        """
        return await self._alone(version, generation, commit=True)

    async def _alone(self, version: int, generation: int, *, commit: bool) -> Reloaded:
        if self._reloading:
            raise ReloadInProgress
        self._reloading = True
        try:
            return await self._reload(version, generation, commit=commit)
        except InferenceError as error:
            self.last_error = str(error)
            raise
        finally:
            self._reloading = False

    async def _reload(self, version: int, generation: int, *, commit: bool) -> Reloaded:
        alias, before = self._repository.champion(), self.current
        if version == 0 and alias is None:
            raise NothingLoaded
        wanted = version or (alias.version if alias else 0)
        if 0 < generation < before.generation:
            raise StaleGeneration(generation, before.generation)
        followed = max(generation or (alias.generation if alias else 0), before.generation)
        if before.version == wanted:
            if commit:
                self.current = replace(before, generation=followed)
            return Reloaded(wanted, before.version, True, 0.0, prepared=not commit)
        began = time.perf_counter()
        servable = self.warm.get(wanted)
        if servable is None:
            servable = await asyncio.to_thread(self._loader.load, wanted, followed)
        if commit:
            self.current = replace(servable, generation=followed, loaded_at=datetime.now(UTC))
            self.warm.put(before, self._keep_warm_seconds)
            _log.info("model swapped", version=wanted, previous=before.version, generation=followed)
        else:
            self.warm.put(servable, KEEP_PREPARED_SECONDS)
        self.last_error = ""
        return Reloaded(wanted, before.version, False, time.perf_counter() - began, prepared=not commit)

    async def load_aside(self, version: int) -> Servable:
        """Return a version without serving it. Raises as `reload` does."""
        await self.prepare(version, 0)
        servable = self.warm.get(version)
        return servable if servable is not None else self.current

    async def converge(self) -> None:
        """Follow the champion alias once, if it names a newer generation than the one followed."""
        alias = self._repository.champion()
        if alias is None or self._reloading or alias.generation <= self.current.generation:
            return
        try:
            await self.reload(alias.version, alias.generation)
        except InferenceError as error:
            _log.warning("cannot follow the champion alias", version=alias.version, problem=str(error))

    async def follow_alias(self) -> None:
        """Converge for as long as the service runs, so that a replica that was away catches up by itself."""
        while True:
            await asyncio.sleep(CONVERGE_EVERY_SECONDS)
            self.warm.clear_expired()
            await self.converge()
