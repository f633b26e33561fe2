"""Follows the experiment's file: loads the challenger beside the champion while an experiment goes on."""

import asyncio

import structlog
from moodfood.registry.v1.manifest_pb2 import EXPERIMENT_KIND_CANARY

from services.inference.errors import InferenceError
from services.inference.models.holder import ModelHolder
from services.inference.models.registry import RegistryReader
from services.inference.queries.trial import Trial

FOLLOW_EVERY_SECONDS = 1.0

_log = structlog.get_logger()


class Trials:
    """Owner of the one trial; readers take `current` once per request. Lives on the event loop."""

    def __init__(self, repository: RegistryReader, holder: ModelHolder) -> None:
        self._repository = repository
        self._holder = holder
        self._current: Trial | None = None

    @property
    def current(self) -> Trial | None:
        """The trial, as long as the champion it is about serves."""
        trial = self._current
        return trial if trial is not None and trial.champion_version == self._holder.current.version else None

    async def follow_once(self) -> None:
        """Begin, go on with, or end a trial as the file says."""
        wanted, trial = self._repository.experiment(), self._current
        if wanted is None or not wanted.running:
            self._current = None
            return
        if trial is not None and trial.experiment_id == wanted.experiment_id:
            return
        self._current = None
        try:
            challenger = await self._holder.load_aside(wanted.challenger_version)
        except InferenceError as error:
            _log.warning("cannot take part in the experiment", experiment=wanted.experiment_id, problem=str(error))
            return
        self._current = Trial(
            wanted.experiment_id,
            challenger,
            wanted.champion_version,
            wanted.share,
            wanted.kind == EXPERIMENT_KIND_CANARY,
        )
        _log.info("taking part in an experiment", experiment=wanted.experiment_id, version=challenger.version)

    async def follow(self) -> None:
        """Follow the file for as long as the service runs."""
        while True:
            await self.follow_once()
            await asyncio.sleep(FOLLOW_EVERY_SECONDS)
