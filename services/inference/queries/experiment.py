"""The experiment that this replica takes part in, as the registry's experiment file says.

A challenger that cannot be loaded leaves the replica out of the experiment; it tries again at the next look.
"""

import hashlib
from dataclasses import dataclass

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.inference.errors import InferenceError
from services.inference.models.holder import ModelHolder
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable

HASH_VALUES = 2**32

_log = structlog.get_logger()


@dataclass(frozen=True)
class Experiment:
    """An experiment with its challenger in memory.

    Attributes:
        share: of the callers that take part, in (0, 1].
        canary: whether the challenger's answers go to those callers; else to the log only.
        champion_version: the experiment is between this version and the challenger, and no other.

    """

    experiment_id: str
    challenger: Servable
    champion_version: int
    share: float
    canary: bool

    def includes(self, caller_key: str) -> bool:
        """Say whether a caller takes part: the same answer for the same key throughout the experiment."""
        digest = hashlib.sha256(f"{self.experiment_id}/{caller_key}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.share * HASH_VALUES


class ExperimentFollower:
    """Owner of the one experiment; readers take `current` once per request. Lives on the event loop."""

    def __init__(self, registry: RegistryReader, holder: ModelHolder) -> None:
        self._registry = registry
        self._holder = holder
        self._followed: Experiment | None = None

    @property
    def current(self) -> Experiment | None:
        """The experiment, as long as the champion it is about serves."""
        followed = self._followed
        return followed if followed and followed.champion_version == self._holder.current.version else None

    async def converge(self) -> None:
        """Begin, go on with, or end the experiment as the file says."""
        wanted = self._registry.experiment()
        if wanted is None or not wanted.running:
            self._followed = None
        elif self._followed is None or self._followed.experiment_id != wanted.experiment_id:
            self._followed = None
            await self._begin(wanted)

    async def _begin(self, wanted: pb.Experiment) -> None:
        try:
            challenger = await self._holder.load_challenger(wanted.challenger_version)
        except InferenceError as error:
            _log.warning("cannot take part in the experiment", experiment=wanted.experiment_id, problem=str(error))
            return
        canary = wanted.kind == pb.EXPERIMENT_KIND_CANARY
        self._followed = Experiment(wanted.experiment_id, challenger, wanted.champion_version, wanted.share, canary)
        _log.info("taking part in an experiment", experiment=wanted.experiment_id, version=challenger.version)
