"""Holds the one reference to the serving servable and swaps it.

Readers take `current` once per request and need no lock: assignment of a reference is atomic, a request is answered
wholly by the servable it took, and the last request to drop an old servable frees it. At most one version is loaded
at a time. The version that was prepared and the one that served before wait on a shelf, so that a commit and a
rollback are one assignment.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from services.inference.errors import InferenceError, NothingLoaded, ReloadInProgress, StaleGeneration
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.models.warm import Place, WarmShelf

KEEP_PREPARED_SECONDS = 60.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class ReloadResult:
    """What a reload did; `prepared` when it kept the version aside instead of serving it."""

    version: int
    previous_version: int
    already_serving: bool
    load_seconds: float
    prepared: bool = False


@dataclass(frozen=True)
class _Target:
    """The version to load, and the generation of the champion alias to follow with it."""

    version: int
    generation: int


class ModelHolder:
    """Owner of the serving servable. Lives on the event loop; loading runs in a thread."""

    def __init__(self, registry: RegistryReader, loader: Loader, keep_warm_seconds: float) -> None:
        self._registry = registry
        self._loader = loader
        self._keep_warm_seconds = keep_warm_seconds
        self._loading = False
        self.current: Servable = loader.without_model()
        self.warm = WarmShelf()
        self.last_error = ""

    async def prepare(self, version: int, generation: int) -> ReloadResult:
        """Load a version and keep it aside; 0 means the champion. Raises as `reload` does."""
        with self._load_alone(), self._remember_error():
            before, target, began = self.current, self._resolve(version, generation), time.perf_counter()
            serving = before.version == target.version
            if not serving:
                servable = await self._get_or_load(target)
                self.warm.keep(Place.PREPARED, servable, KEEP_PREPARED_SECONDS)
        return ReloadResult(target.version, before.version, serving, time.perf_counter() - began, prepared=True)

    async def reload(self, version: int, generation: int) -> ReloadResult:
        """Swap to a version; 0 means the champion. Generation 0 means the alias's present one.

        Raises:
            ReloadInProgress, NothingLoaded, ModelVersionNotFound, ModelRejected, StaleGeneration: `current` is
            untouched.

        """
        with self._load_alone(), self._remember_error():
            before, target, began = self.current, self._resolve(version, generation), time.perf_counter()
            serving = before.version == target.version
            if serving:
                self.current = replace(before, generation=target.generation)
            else:
                self._swap(await self._get_or_load(target), target.generation)
        return ReloadResult(target.version, before.version, serving, time.perf_counter() - began)

    async def load_challenger(self, version: int) -> Servable:
        """Return a version without serving it, for an experiment that holds it. Raises as `reload` does."""
        if version == self.current.version:
            return self.current
        with self._load_alone():
            return await self._get_or_load(_Target(version, self.current.generation))

    async def converge(self) -> None:
        """Follow the champion alias once, if it names a newer generation than the one followed."""
        self.warm.clear_expired()
        alias = self._registry.champion()
        if alias is None or self._loading or alias.generation <= self.current.generation:
            return
        try:
            await self.reload(alias.version, alias.generation)
        except InferenceError as error:
            _log.warning("cannot follow the champion alias", version=alias.version, problem=str(error))

    def _resolve(self, version: int, generation: int) -> _Target:
        alias, followed = self._registry.champion(), self.current.generation
        if version == 0 and alias is None:
            raise NothingLoaded
        if 0 < generation < followed:
            raise StaleGeneration(generation, followed)
        wanted_generation = generation or (alias.generation if alias else 0)
        return _Target(version or (alias.version if alias else 0), max(wanted_generation, followed))

    async def _get_or_load(self, target: _Target) -> Servable:
        kept = self.warm.get(target.version)
        if kept is not None:
            return kept
        return await asyncio.to_thread(self._loader.load, target.version, target.generation)

    def _swap(self, servable: Servable, generation: int) -> None:
        before, self.current = self.current, replace(servable, generation=generation, loaded_at=datetime.now(UTC))
        self.warm.remove(servable.version)
        self.warm.keep(Place.FORMER, before, self._keep_warm_seconds)
        _log.info("model swapped", version=servable.version, previous=before.version, generation=generation)

    @contextmanager
    def _load_alone(self) -> Iterator[None]:
        if self._loading:
            raise ReloadInProgress
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    @contextmanager
    def _remember_error(self) -> Iterator[None]:
        try:
            yield
        except (InferenceError, OSError) as error:
            self.last_error = str(error)
            raise
        self.last_error = ""
