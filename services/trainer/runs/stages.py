"""The stages of a training run, in order, and how far a run is when each begins.

The percentages are shares of the time that a run on CLINC150 takes with nothing embedded before: a third of it goes to
embedding and judging labels, half to fitting.
"""

from collections.abc import Callable
from enum import Enum


class RunStage(Enum):
    """A stage; the value is the percentage of the whole run that lies before it."""

    COLLECT = 1
    CLEAN = 2
    SNAPSHOT = 38
    TRAIN = 39
    EXPORT = 80
    PARITY = 82
    EVALUATE = 84
    DECIDE = 88
    REGISTER = 89
    REHEARSE = 90
    PROMOTE = 96

    @property
    def label(self) -> str:
        """The name in logs."""
        return self.name.lower()

    def percent(self, share: float) -> int:
        """Return how far the run is when a share in [0, 1] of this stage is done."""
        following = min((stage.value for stage in RunStage if stage.value > self.value), default=100)
        return self.value + int(min(1.0, share) * (following - self.value))


# Called when a stage begins and while it goes on, with the share of it that is done, in [0, 1].
Report = Callable[[RunStage, float], None]


def counted(report: Report, stage: RunStage, steps: int) -> Callable[[], None]:
    """Return what to call after each of so many steps of a stage; further ones count as the last."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        report(stage, min(1.0, done / steps))

    return step
