"""The stages of a training run, in order, and the percentage at which each of them begins."""

from collections.abc import Callable
from enum import Enum

from moodfood.trainer.v1 import trainer_pb2 as pb


class RunStage(Enum):
    """A stage of a training run, in the order in which they happen. The value is the name in logs."""

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
        """How much of the whole run is done when this stage begins, in percent."""
        return _BEGINS_AT[self]

    @property
    def message(self) -> "pb.RunStage.ValueType":
        """The value of this stage in the proto."""
        return pb.RunStage.Value(f"RUN_STAGE_{self.name}")

    def percent(self, share: float) -> int:
        """Return how much of the whole run is done, in percent, when a share in [0, 1] of this stage is done."""
        following = min((begin for begin in _BEGINS_AT.values() if begin > self.begins_at), default=100)
        return self.begins_at + int(min(1.0, share) * (following - self.begins_at))


# Measured on CLINC150 without stored embeddings: a third of the time goes to embedding the examples and looking for
# label noise (clean), and half of it to fitting (train).
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

# A function that is called when a stage begins and while it runs, with the share of the stage that is done, in [0, 1].
Report = Callable[[RunStage, float], None]


def count_steps(report: Report, stage: RunStage, steps: int) -> Callable[[], None]:
    """Return the function to call after each step of a stage that has so many steps. Calls beyond that do no harm."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        report(stage, min(1.0, done / steps))

    return step


def name_stage(run: pb.TrainingRun) -> str:
    """Return the name of the stage that a run is in; "start" before the first stage."""
    return pb.RunStage.Name(run.stage).removeprefix("RUN_STAGE_").lower().replace("unspecified", "start")
