"""Follows the experiment file of the registry: which experiment this replica takes part in.

When the challenger cannot be loaded, the replica does not take part, and tries again after a growing pause.
"""

import hashlib
from dataclasses import dataclass

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.inference.errors import InferenceError, RegistryUnavailable
from services.inference.models.following import Patience
from services.inference.models.holder import ModelHolder
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable

HASH_VALUES = 2**32

_log = structlog.get_logger()


@dataclass(frozen=True)
class Experiment:
    """An experiment with its challenger in memory.

    Attributes:
        experiment_id: identifies the experiment.
        challenger: the challenger in memory.
        champion_version: the champion when the experiment started. With another champion there is no experiment.
        share: share of the callers that take part, in (0, 1].
        canary: whether the challenger answers these callers; if not, its answers go to the log only.

    """

    experiment_id: str
    challenger: Servable
    champion_version: int
    share: float
    canary: bool

    def includes(self, caller_key: str) -> bool:
        """Say whether a caller takes part. During one experiment, the same key always gets the same answer."""
        digest = hashlib.sha256(f"{self.experiment_id}/{caller_key}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.share * HASH_VALUES


class ExperimentFollower:
    """Keeps the experiment of this replica. A request reads `current` once. Use it on the event loop."""

    def __init__(self, registry: RegistryReader, holder: ModelHolder) -> None:
        self._registry = registry
        self._holder = holder
        self._followed: Experiment | None = None
        self._patience = Patience()

    @property
    def current(self) -> Experiment | None:
        """The experiment while its champion serves; None otherwise."""
        followed = self._followed
        return followed if followed and followed.champion_version == self._holder.current.version else None

    async def converge(self) -> None:
        """Read the file once, and start, keep or end the experiment accordingly. Raises RegistryUnavailable."""
        wanted = await self._registry.look_at_experiment()
        if wanted is None or not wanted.running:
            self._followed = None
        elif self._followed is None or self._followed.experiment_id != wanted.experiment_id:
            self._followed = None
            if self._patience.allows(wanted.experiment_id):
                await self._begin(wanted)

    async def _begin(self, wanted: pb.Experiment) -> None:
        try:
            challenger = await self._holder.load_challenger(wanted.challenger_version)
        except RegistryUnavailable:
            raise
        except InferenceError as error:
            self._patience.note_failure(wanted.experiment_id)
            _log.warning("cannot take part in the experiment", experiment=wanted.experiment_id, problem=str(error))
            return
        canary = wanted.kind == pb.EXPERIMENT_KIND_CANARY
        self._followed = Experiment(wanted.experiment_id, challenger, wanted.champion_version, wanted.share, canary)
        _log.info("taking part in an experiment", experiment=wanted.experiment_id, version=challenger.version)
