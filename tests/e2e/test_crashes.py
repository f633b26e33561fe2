"""kill -9 at any moment: the champion serves, nothing half-written is visible, the run is marked failed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.runs.stages import name_stage
from services.trainer.runs.store import RunStore
from tests.registries import MODEL
from tests.system import System, eventually

pytestmark = pytest.mark.timeout(180)

GRPCURL = Path(sys.executable).parent / "grpcurl"


def begin(live: System, stage: str) -> str:
    """Begin a run and return its id as soon as it is in a stage.

    The stage `promote` is over within milliseconds, unless inference is frozen. It must be thawed by the caller then.
    """
    run_id = live.begin()
    if stage == "promote":
        live.wait_for_stage(run_id, "rehearse")
        live.freeze("inference")
    if stage != "start":
        live.wait_for_stage(run_id, stage)
        eventually(lambda: stored_stage(live, run_id) == stage, "the stage in the database")
    return run_id


def stored_stage(live: System, run_id: str) -> str:
    """Return the stage of a run as another trainer sees it."""
    with closing(Database(file_url(live.data / DATABASE_FILE))) as database:
        return name_stage(RunStore(database).get(run_id))


def cancel(live: System, run_id: str) -> None:
    """Cancel a run with grpcurl; fails when that takes longer than five seconds."""
    subprocess.run(
        [GRPCURL, "-plaintext", "-max-time", "5", "-d", json.dumps({"name": f"operations/{run_id}"}), live.trainer,
         "google.longrunning.Operations/CancelOperation"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["start", "train", "rehearse", "promote"])
def test_trainer_killed_in_a_stage_comes_back_with_the_run_failed_and_the_champion_serving(
    live: System, stage: str
) -> None:
    version, alias = live.version(), live.champion()
    run_id = begin(live, stage)
    live.kill("trainer")
    live.thaw("inference")
    assert live.intent("chocolate please") == "flavor_chocolate"

    live.start("trainer")
    run = live.ended(run_id)

    assert (run["state"], run["reasons"]) == ("failed", [f"the trainer stopped in stage {stage}"])
    assert (live.version(), live.champion()) == (version, alias)
    assert list((live.models / MODEL).glob(".unfinished-*")) == []
    for folder in (live.models / MODEL).glob("[0-9]*"):
        json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("stage", ["start", "train", "promote"])
def test_run_cancelled_in_a_stage_ends_at_once_and_leaves_no_process(live: System, stage: str) -> None:
    version, alias = live.version(), live.champion()
    run_id = begin(live, stage)
    cancel(live, run_id)
    live.thaw("inference")
    assert live.children("trainer") == []
    run = live.ended(run_id)
    assert (run["state"], run["reasons"]) == ("cancelled", [f"cancelled in stage {stage}"])
    assert (live.version(), live.champion()) == (version, alias)


def test_killed_training_process_fails_the_run_and_not_the_trainer(live: System) -> None:
    run_id = live.begin()
    (child,) = eventually(lambda: live.children("trainer"), "a child process")
    os.kill(child, signal.SIGKILL)
    run = live.ended(run_id)
    assert run["state"] == "failed"
    assert "the training process died in stage" in run["reasons"][0]
    cancel(live, live.begin())


def test_child_ends_with_the_trainer_that_started_it(live: System) -> None:
    live.begin()
    (child,) = eventually(lambda: live.children("trainer"), "a child process")
    live.kill("trainer")
    eventually(lambda: not Path(f"/proc/{child}/cmdline").exists(), "the end of the child", 10)
    live.start("trainer")


def test_inference_and_gateway_killed_during_a_run_change_no_champion_and_serve_it_when_they_are_back(
    live: System,
) -> None:
    version, alias = live.version(), live.champion()
    run_id = begin(live, "train")
    live.kill("inference")
    assert live.call("/classify", {"text": "x"})[0] == 503
    assert live.call("/health")[0] == 503
    live.kill("gateway")
    live.start("gateway")
    run = live.ended(run_id)
    assert run["state"] == "failed"
    assert "no inference service answered" in run["reasons"][0]
    assert alias == live.champion()
    live.start("inference")
    eventually(lambda: live.version() == version, "inference on the champion", 15)
    assert live.intent("chocolate please") == "flavor_chocolate"
