"""kill -9 at any moment: the champion serves, nothing half-written is visible, the run is marked failed."""

import json
import os
import signal
import time
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_grpc_pb2, operations_pb2

from tests.registries import MODEL
from tests.system import System, eventually

pytestmark = pytest.mark.timeout(240)


def complete_versions(models: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (models / MODEL).iterdir() if folder.name.isdecimal())


def wait_for_stage(live: System, run_id: str, stage: str) -> None:
    log = live.data / "logs" / "retrain.log"
    eventually(lambda: f"{run_id} api_triggered stage {stage}" in log.read_text(), f"stage {stage}", 30)


STAGES = [
    "start", "collect", "clean", "snapshot", "train", "export", "parity", "evaluate", "decide", "register", "rehearse",
    "promote",
]  # fmt: skip


def begin(live: System, stage: str) -> str:
    """Begin a run and wait until it has reached a stage; short ones may be over by the time that this is seen."""
    code, answer = live.call("/retrain", {})
    assert code == 200, answer
    run_id = str(answer["operation"].removeprefix("operations/"))
    if stage != "start":
        wait_for_stage(live, run_id, stage)
    return run_id


def reached(reason: str, stage: str) -> bool:
    """Say whether a run ended in a stage or after it."""
    return STAGES.index(reason.split()[-1]) >= STAGES.index(stage)


def test_trainer_killed_in_any_stage_comes_back_with_the_run_marked_and_one_version_serving(live: System) -> None:
    for stage in STAGES:
        champion = live.version()
        run_id = begin(live, stage)
        live.kill("trainer")
        assert live.intent("chocolate please") == "flavor_chocolate"

        live.start("trainer")
        run = live.ended(run_id)

        assert reached(run["reasons"][0], stage), run["reasons"]
        alias = json.loads((live.models / MODEL / "champion").read_text())["version"]
        assert (run["state"], alias) in {("failed", champion), ("succeeded", run["version"])}
        eventually(lambda alias=alias: live.version() == alias, f"inference on the champion after {stage}", 10)  # type: ignore[misc]
        assert list((live.models / MODEL).glob(".unfinished-*")) == []
        for version in complete_versions(live.models):
            json.loads((live.models / MODEL / str(version) / "manifest.json").read_text())
    assert live.retrain()["state"] == "succeeded"


def test_run_cancelled_in_any_stage_ends_at_once_and_frees_its_memory(live: System) -> None:
    trainer = live.processes["trainer"].pid
    children = Path(f"/proc/{trainer}/task/{trainer}/children")
    for stage in STAGES:
        champion = live.version()
        run_id = begin(live, stage)
        began = time.monotonic()
        with grpc.insecure_channel(live.trainer) as channel:
            operations_grpc_pb2.OperationsStub(channel).CancelOperation(
                operations_pb2.CancelOperationRequest(name=f"operations/{run_id}"), timeout=5
            )
        run = live.ended(run_id)
        seconds = time.monotonic() - began
        assert (run["state"], live.version()) in {("cancelled", champion), ("succeeded", run["version"])}
        if run["state"] == "cancelled":
            assert reached(run["reasons"][0], stage), run["reasons"]
        else:
            assert stage in {"rehearse", "promote"}
        print(stage, run["state"], f"after {seconds:.2f} s")
        assert seconds < 5.0, f"{stage}: {seconds:.2f} s"
        assert children.read_text().split() == []


def test_killed_training_process_fails_the_run_and_not_the_trainer(live: System) -> None:
    operation = live.call("/retrain", {})[1]["operation"]
    run_id = operation.removeprefix("operations/")
    trainer = live.processes["trainer"].pid
    children = Path(f"/proc/{trainer}/task/{trainer}/children")
    child = int(eventually(lambda: children.read_text().split(), "a child process")[0])
    os.kill(child, signal.SIGKILL)
    run = live.ended(run_id)
    assert run["state"] == "failed"
    assert "died in stage" in run["reasons"][0]
    assert live.retrain()["state"] == "succeeded"


def test_child_ends_with_the_trainer_that_started_it(live: System) -> None:
    live.call("/retrain", {})
    trainer = live.processes["trainer"].pid
    children = Path(f"/proc/{trainer}/task/{trainer}/children")
    child = int(eventually(lambda: children.read_text().split(), "a child process")[0])
    live.kill("trainer")
    eventually(lambda: not Path(f"/proc/{child}/cmdline").exists(), "the end of the child", 10)
    live.start("trainer")
    eventually(live.ready, "the trainer back again")


def test_inference_killed_while_a_run_goes_on_serves_the_champion_when_it_is_back(live: System) -> None:
    operation = live.call("/retrain", {})[1]["operation"]
    run_id = operation.removeprefix("operations/")
    wait_for_stage(live, run_id, "train")
    live.kill("inference")
    assert live.call("/classify", {"text": "x"})[0] == 503
    assert live.call("/health")[0] == 503
    live.start("inference")
    run = live.ended(run_id)
    champion = json.loads((live.models / MODEL / "champion").read_text())["version"]
    assert champion == (run["version"] if run["state"] == "succeeded" else 1)
    eventually(lambda: live.version() == champion, "inference on the champion", 15)
    assert live.intent("chocolate please") == "flavor_chocolate"


def test_gateway_killed_loses_nothing_but_itself(live: System) -> None:
    operation = live.call("/retrain", {})[1]["operation"]
    live.kill("gateway")
    live.start("gateway")
    eventually(lambda: live.call("/livez")[0] == 200, "the gateway")
    assert live.ended(operation.removeprefix("operations/"))["state"] == "succeeded"


def test_run_that_reaches_no_replica_fails_and_leaves_the_champion(live: System) -> None:
    live.kill("inference")
    alias = (live.models / MODEL / "champion").read_bytes()
    operation = live.call("/retrain", {})[1]["operation"]
    run = live.ended(operation.removeprefix("operations/"))
    assert run["state"] == "failed"
    assert "no inference service answered" in run["reasons"][0]
    assert alias == (live.models / MODEL / "champion").read_bytes()
    live.start("inference")
    eventually(lambda: live.version() == 1, "inference on the champion", 15)
