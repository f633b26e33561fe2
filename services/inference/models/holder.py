"""Holds the servable that serves, and swaps it for another one.

A request reads `current` once and needs no lock, because assigning a reference is atomic. It is answered by this
servable from start to end, also when a swap happens meanwhile. An old servable is freed when the last request that uses
it ends. At most one version is loaded at a time. The version that was prepared last and the one that served before stay
in memory, so that a commit or a rollback is only one assignment, also while another version is being fetched.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from moodfood.registry.v1.manifest_pb2 import ChampionAlias

from services.inference.errors import (
    InferenceError,
    NothingLoaded,
    RegistryUnavailable,
    ReloadInProgress,
    StaleGeneration,
)
from services.inference.models.following import Patience
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.models.threads import call_in_thread
from services.inference.models.warm import Place, WarmShelf

KEEP_PREPARED_SECONDS = 60.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class ReloadResult:
    """The result of a reload. `prepared` is true when the version was only loaded and does not serve yet."""

    version: int
    previous_version: int
    already_serving: bool
    load_seconds: float
    prepared: bool = False


@dataclass(frozen=True)
class _Target:
    """The version to load, and the generation of the champion alias that the replica then has followed."""

    version: int
    generation: int


class ModelHolder:
    """The servable that serves, and the ways to swap it. Use it on the event loop; it loads versions in a thread."""

    def __init__(self, registry: RegistryReader, loader: Loader, keep_warm_seconds: float) -> None:
        self._registry = registry
        self._loader = loader
        self._keep_warm_seconds = keep_warm_seconds
        self._loading = False
        self._patience = Patience()
        self._copies_dropped_for = 0
        self.current: Servable = loader.without_model()
        self.warm = WarmShelf()
        self.last_error = ""

    async def prepare(self, version: int, generation: int) -> ReloadResult:
        """Load a version and keep it in memory for KEEP_PREPARED_SECONDS, without serving it.

        The arguments and the exceptions are those of `reload`.
        """
        with self._remember_error():
            target, began = await self._resolve(version, generation), time.perf_counter()
            before = self.current
            serving = before.version == target.version
            if not serving:
                servable = await self._get_or_load(target)
                self.warm.keep(Place.PREPARED, servable, KEEP_PREPARED_SECONDS)
        return ReloadResult(target.version, before.version, serving, time.perf_counter() - began, prepared=True)

    async def reload(self, version: int, generation: int) -> ReloadResult:
        """Swap to a version.

        Args:
            version: the version to serve; 0 means the champion.
            generation: the generation of the champion alias; 0 means the present one.

        Raises:
            ReloadInProgress: the version is not in memory, and another one is being loaded.
            NothingLoaded: the champion was asked for and there is none.
            ModelVersionNotFound, ModelRejected: the version cannot be loaded.
            RegistryUnavailable: the registry cannot be read.
            StaleGeneration: the replica has followed a higher generation. `current` does not change on any error.

        """
        with self._remember_error():
            target, began = await self._resolve(version, generation), time.perf_counter()
            servable = self.current if self.current.version == target.version else await self._get_or_load(target)
            before = self.current
            # While it was loaded, a version in memory may have been swapped in under a higher generation.
            if target.generation < before.generation:
                raise StaleGeneration(target.generation, before.generation)
            serving = before.version == target.version
            if serving:
                self.current = replace(before, generation=target.generation)
            else:
                self._swap(servable, target.generation)
        return ReloadResult(target.version, before.version, serving, time.perf_counter() - began)

    async def load_challenger(self, version: int) -> Servable:
        """Return a version for an experiment, without serving it to everybody. Raises what `reload` raises."""
        if version == self.current.version:
            return self.current
        return await self._get_or_load(_Target(version, self.current.generation))

    async def converge(self) -> None:
        """Look at the alias, and swap to the champion if its generation is higher than the one followed.

        A version that cannot be loaded is logged, and tried again after a growing pause. Raises RegistryUnavailable.
        """
        self.warm.clear_expired()
        try:
            await self._registry.look_at_alias()
        except RegistryUnavailable:
            # A replica that has just started knows the alias that was followed before.
            await self._follow(self._registry.alias)
            raise
        await self._follow(self._registry.alias)
        await self._drop_old_copies()

    async def _follow(self, alias: ChampionAlias | None) -> None:
        if alias is None or alias.generation <= self.current.generation:
            return
        if self._loading and self.warm.get(alias.version) is None:
            return
        if not self._patience.allows(alias.generation):
            return
        try:
            await self.reload(alias.version, alias.generation)
        except RegistryUnavailable:
            raise  # the next look, which comes soon, tries again
        except InferenceError as error:
            self._patience.note_failure(alias.generation)
            _log.warning("cannot follow the champion alias", version=alias.version, problem=str(error))

    async def _resolve(self, version: int, generation: int) -> _Target:
        alias = await self._look_for(version, generation)
        followed = self.current.generation
        if version == 0 and alias is None:
            raise NothingLoaded
        if 0 < generation < followed:
            raise StaleGeneration(generation, followed)
        wanted_generation = generation or (alias.generation if alias else 0)
        return _Target(version or (alias.version if alias else 0), max(wanted_generation, followed))

    async def _look_for(self, version: int, generation: int) -> ChampionAlias | None:
        """Read the alias if the caller leaves anything to it. A version that is named can do with the one last seen."""
        try:
            return self._registry.alias if version and generation else await self._registry.look_at_alias()
        except RegistryUnavailable:
            if not version:
                raise
            return self._registry.alias

    async def _get_or_load(self, target: _Target) -> Servable:
        kept = self.warm.get(target.version)
        if kept is not None:
            return kept
        with self._load_alone():
            return await call_in_thread(lambda: self._loader.load(target.version, target.generation))

    async def _drop_old_copies(self) -> None:
        """Once after each swap. Not within the swap: it can wait for a version that is being fetched."""
        if self._copies_dropped_for == self.current.version:
            return
        self._copies_dropped_for = self.current.version
        kept = {self.current.version, *self.warm.versions}
        await call_in_thread(lambda: self._registry.drop_old_copies(kept))

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
