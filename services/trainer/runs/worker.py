"""The child process of a training run. It reads its plan from standard input and reports on standard output.

Each line of its output is a TrainingRun as JSON with only the changed fields: the stage and the percentage, and at the
end the registered version or the reasons why there is none. The metrics are in the registry, with the version. The
child ends when its standard input closes, so it never lives longer than the trainer that started it.
"""

import os
import sys
import threading
import traceback
from typing import TextIO

from google.protobuf import json_format
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import TrainerError
from services.trainer.runs.plan import Plan
from services.trainer.runs.record import UNEXPECTED
from services.trainer.runs.retrain import retrain
from services.trainer.runs.stages import RunStage

LOWER_PRIORITY = 10


def main() -> None:
    """Carry out one training run and report its result."""
    os.nice(LOWER_PRIORITY)
    plan = Plan.from_line(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=(sys.stdin,), daemon=True).start()
    try:
        _say(pb.TrainingRun(version=retrain(plan, _Progress().report)))
    except TrainerError as error:
        _say(pb.TrainingRun(state=pb.RUN_STATE_FAILED, reasons=[str(error)]))
    except Exception:
        traceback.print_exc()
        _say(pb.TrainingRun(state=pb.RUN_STATE_FAILED, reasons=[UNEXPECTED]))


def _end_with_parent(stream: TextIO) -> None:
    stream.read()
    os._exit(1)


class _Progress:
    """Reports each change of the stage or of the percentage once."""

    def __init__(self) -> None:
        self._said: tuple[RunStage, int] | None = None

    def report(self, stage: RunStage, share: float) -> None:
        now = stage, stage.percent(share)
        if now != self._said:
            self._said = now
            _say(pb.TrainingRun(stage=stage.message, percent=now[1]))


def _say(change: pb.TrainingRun) -> None:
    print(json_format.MessageToJson(change, preserving_proto_field_name=True, indent=None), flush=True)


if __name__ == "__main__":
    main()
