"""The stages of a training run, in order, and how far a run is when each begins."""

from collections.abc import Callable
from enum import Enum

from moodfood.trainer.v1 import trainer_pb2 as pb


class RunStage(Enum):
    """A stage of a run; the value is its name in logs. The order is that of the run."""

    COLLECT = "collect"
    CLEAN = "clean"
    SNAPSHOT = "snapshot"
    TRAIN = "train"
    EXPORT = "export"
    PARITY = "parity"
    EVALUATE = "evaluate"
    DECIDE = "decide"
    REGISTER = "register"
    REHEARSE = "rehearse"
    PROMOTE = "promote"

    @property
    def begins_at(self) -> int:
        """How far the whole run is when this stage begins, in percent."""
        return _BEGINS_AT[self]

    @property
    def message(self) -> "pb.RunStage.ValueType":
        """The same stage in the proto."""
        return pb.RunStage.Value(f"RUN_STAGE_{self.name}")

    def percent(self, share: float) -> int:
        """Return how far the whole run is, in percent, when a share in [0, 1] of this stage is done."""
        following = min((begin for begin in _BEGINS_AT.values() if begin > self.begins_at), default=100)
        return self.begins_at + int(min(1.0, share) * (following - self.begins_at))


# Shares of the time that a run on CLINC150 takes when nothing was embedded before: a third of it goes to embedding and
# to judging labels (clean), half to fitting (train).
_BEGINS_AT = {
    RunStage.COLLECT: 1,
    RunStage.CLEAN: 2,
    RunStage.SNAPSHOT: 38,
    RunStage.TRAIN: 39,
    RunStage.EXPORT: 80,
    RunStage.PARITY: 82,
    RunStage.EVALUATE: 84,
    RunStage.DECIDE: 88,
    RunStage.REGISTER: 89,
    RunStage.REHEARSE: 90,
    RunStage.PROMOTE: 96,
}

# Called when a stage begins and while it goes on, with the share of it that is done, in [0, 1].
Report = Callable[[RunStage, float], None]


def count_steps(report: Report, stage: RunStage, steps: int) -> Callable[[], None]:
    """Return what to call after each of so many steps of a stage; further ones count as the last."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        report(stage, min(1.0, done / steps))

    return step


def name_stage(run: pb.TrainingRun) -> str:
    """Return the name of the stage that a run is in, or "start" before the first."""
    return pb.RunStage.Name(run.stage).removeprefix("RUN_STAGE_").lower().replace("unspecified", "start")
