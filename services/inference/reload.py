"""Holds the one reference to the serving servable and swaps it.

Readers take `current` once per request and need no lock: assignment of a reference is atomic, a request is answered
wholly by the servable it took, and the last request to drop an old servable frees it. At most one reload at a time.
"""

import asyncio
import time
from dataclasses import dataclass

import structlog

from services.inference.errors import InferenceError, NothingLoaded, ReloadInProgress
from services.inference.loader import Loader, with_generation
from services.inference.repository import ModelRepository
from services.inference.servable import Servable

CONVERGE_EVERY_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class Reloaded:
    """The outcome of a reload."""

    version: int
    previous_version: int
    already_serving: bool
    load_seconds: float


class ModelHolder:
    """Owner of the serving servable. Lives on the event loop; loading runs in a thread."""

    def __init__(self, repository: ModelRepository, loader: Loader) -> None:
        self._repository = repository
        self._loader = loader
        self._reloading = False
        self.current: Servable = loader.without_model()
        self.last_error = ""

    async def reload(self, version: int, generation: int) -> Reloaded:
        """Swap to a version; 0 means the champion. Generation 0 means the alias's present one.

        Raises:
            ReloadInProgress, NothingLoaded, ModelVersionNotFound, ModelRejected: `current` is untouched.

        """
        if self._reloading:
            raise ReloadInProgress
        self._reloading = True
        try:
            return await self._swap(version, generation)
        except InferenceError as error:
            self.last_error = str(error)
            raise
        finally:
            self._reloading = False

    async def _swap(self, version: int, generation: int) -> Reloaded:
        alias = self._repository.champion()
        if version == 0 and alias is None:
            raise NothingLoaded
        wanted = version or (alias.version if alias else 0)
        followed = generation or (alias.generation if alias else 0)
        before = self.current
        if before.version == wanted:
            self.current = with_generation(before, followed)
            return Reloaded(wanted, before.version, True, 0.0)
        began = time.perf_counter()
        servable = await asyncio.to_thread(self._loader.load, wanted, max(followed, before.generation))
        self.current = servable
        self.last_error = ""
        _log.info("model swapped", version=wanted, previous=before.version, generation=servable.generation)
        return Reloaded(wanted, before.version, False, time.perf_counter() - began)

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
            await self.converge()
