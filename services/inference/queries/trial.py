"""A challenger on trial: which callers it answers, and which it only answers for the log."""

import hashlib
from dataclasses import dataclass

from services.inference.models.servable import Servable

STEPS = 2**32


@dataclass(frozen=True)
class Trial:
    """An experiment that this replica takes part in.

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

    def picks(self, caller_key: str) -> bool:
        """Say whether a caller takes part: the same answer for the same key throughout the experiment."""
        digest = hashlib.sha256(f"{self.experiment_id}/{caller_key}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.share * STEPS
