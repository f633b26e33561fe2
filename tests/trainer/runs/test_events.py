"""The logs of runs for operators."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.runs import events as module
from services.trainer.runs.events import EventLog
from services.trainer.runs.record import begin_run
from services.trainer.storage import append_lines

pytestmark = pytest.mark.anyio


async def test_disk_that_hangs_holds_up_nobody_but_the_log_and_lines_stay_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def hangs(path: Path, lines: Sequence[str]) -> None:
        assert goes_on.wait(10)
        append_lines(path, lines)

    monkeypatch.setattr(module, "append_lines", hangs)
    log, run = EventLog(tmp_path / "queries.jsonl", tmp_path / "retrain.log"), begin_run("run", pb.TRIGGER_MANUAL)
    asyncio.get_running_loop().call_later(0.05, goes_on.set)
    log.run_changed(run)
    log.note(run, "stage collect (1%)")
    await asyncio.wrap_future(log.note(run, "stage train (39%)"))
    said = [line.split(" ", 2)[2] for line in (tmp_path / "retrain.log").read_text().splitlines()]
    assert said == ["manual started", "manual stage collect (1%)", "manual stage train (39%)"]
