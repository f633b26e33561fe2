"""The stages of a training run, in order, and how far a run is when each begins."""

from enum import Enum


class RunStage(Enum):
    """A stage; the value is the percentage of the whole run that lies before it."""

    COLLECT = 1
    CLEAN = 3
    SNAPSHOT = 5
    TRAIN = 8
    EXPORT = 70
    PARITY = 75
    EVALUATE = 80
    DECIDE = 86
    REGISTER = 88
    REHEARSE = 90
    PROMOTE = 96

    @property
    def label(self) -> str:
        """The name in logs."""
        return self.name.lower()
