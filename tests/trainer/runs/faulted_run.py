"""Trains once and, in each stage that writes, meets every write with a fault in a forked process of its own.

Run as `python -m tests.trainer.runs.faulted_run DATA MODELS FOLDER`; it leaves MODELS as it is. It prints one line of
JSON for each fault: {"fault": "kill" or "full", "stage", "write", "status", "models"}, how the process that met the
fault ended and a copy of the model repository as it left it. A last line, {"writes": {stage: count}}, says how often
each stage of the run without a fault waited for the disk.
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections import Counter
from contextlib import closing
from itertools import count
from pathlib import Path

from services.trainer.errors import StorageFailed
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.runs.retrain import retrain
from services.trainer.runs.stages import RunStage
from tests.conftest import small_plan
from tests.registries import MODEL, database_beside

STORAGE_FAILED = 3
WRITING_STAGES = (RunStage.SNAPSHOT, RunStage.REGISTER)

real_fsync = os.fsync


class FaultedRun:
    """One run. At the beginning of a stage that writes it forks a child, which ends with that stage, for each fault."""

    def __init__(self, data: Path, trained: Path, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        shutil.copytree(trained, self.models)
        shutil.rmtree(self.models / MODEL / "snapshots")
        with closing(database_beside(self.models)) as database:
            FeedbackStore(database).add([Feedback(f"something glorptastic {n}", ("flavor_spicy",)) for n in range(5)])
        self.plan = small_plan(data, self.models)
        self.stage = RunStage.COLLECT
        self.writes: Counter[str] = Counter()
        self.is_child = False
        self.fault, self.writes_before_fault = "", 0

    def run(self) -> None:
        os.fsync = self.fsync  # type: ignore[assignment]
        try:
            retrain(self.plan, self.report)
        except StorageFailed:
            if self.is_child:
                os._exit(STORAGE_FAILED)
            raise
        if self.is_child:
            os._exit(0)
        print(json.dumps({"writes": self.writes}), flush=True)

    def fsync(self, descriptor: int) -> None:
        """Count a write; in a child, meet the one that it was forked for with its fault."""
        self.writes[self.stage.value] += 1
        self.writes_before_fault -= 1
        if self.is_child and self.writes_before_fault < 0:
            self.writes_before_fault = sys.maxsize
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    def report(self, stage: RunStage, _share: float) -> None:
        if stage is self.stage:
            return
        if self.is_child:
            os._exit(0)
        self.stage = stage
        if stage in WRITING_STAGES:
            self.meet_every_write_with_each_fault()

    def meet_every_write_with_each_fault(self) -> None:
        """Return at once in each child, and in the parent when a child ended without having met its fault."""
        for write in count():
            for fault in ("full", "kill"):
                status = self.fork(write, fault)
                if self.is_child or (fault == "kill" and status == 0):
                    return

    def fork(self, write: int, fault: str) -> int:
        before, left = self.folder / "before", self.folder / f"{self.stage.value} {fault} {write}"
        self.plan.database.close()  # an open SQLite file must not be carried into a fork, or to another folder
        shutil.copytree(self.models, before)
        child = os.fork()
        if child == 0:
            self.is_child, self.fault, self.writes_before_fault = True, fault, write
            return 0
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.models.rename(left)
        before.rename(self.models)
        met = {"fault": fault, "stage": self.stage.value, "write": write, "status": status, "models": str(left)}
        print(json.dumps(met), flush=True)
        return status


if __name__ == "__main__":
    FaultedRun(*map(Path, sys.argv[1:])).run()
