"""Whole stories told by three real processes: learning, refusing, rolling back. All tests share one system."""

import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from sqlalchemy import select

from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.database.tables import feedback
from tests.conftest import ROOT, SMALL_LABELS
from tests.registries import MODEL
from tests.system import System, eventually, traffic

pytestmark = pytest.mark.timeout(180)

GRPCURL = Path(sys.executable).parent / "grpcurl"
WORDS = ["dinner", "soup", "noodles", "evening", "bowl", "plate", "night", "snack", "tonight", "curry"]


def teach_glorptastic(live: System) -> None:
    for n in range(30):
        text = f"something glorptastic {WORDS[n % 10]} {WORDS[n // 3 % 10]} {n}"
        assert live.call("/feedback", {"text": text, "labels": ["flavor_spicy"]})[0] == 201


def new_samples(live: System) -> int:
    """Return how many examples were given that no run has learned from."""
    status = live.call("/retrain/status")[1]["retrain_status"]
    return int(status["logged_data_status"]["sample_count"])


def test_word_nobody_knew_is_learned_without_losing_a_request_and_unlearned_by_one_rollback(live: System) -> None:
    question = "something glorptastic tonight"
    before, answer_before = live.version(), live.intent(question)
    assert answer_before != "flavor_spicy"
    samples_before = new_samples(live)
    teach_glorptastic(live)
    assert new_samples(live) == samples_before + 30
    advice = live.call("/retrain/status")[1]["retrain_status"]["next_retrain_recommended"]
    assert advice.startswith(f"Not yet - need {20 - samples_before} more samples or 30 more days")

    with traffic(live) as seen:
        run = live.retrain()
        eventually(lambda: run["version"] in seen.versions, "an answer of the new version")
    assert (run["state"], seen.failures) == ("succeeded", []), run["reasons"]
    assert seen.answered > 100
    assert {before, run["version"]} == seen.versions
    assert run["version"] > before
    assert live.intent(question) == "flavor_spicy"
    assert [e["status"] for e in live.events() if e["training_run"] == run["run_id"]] == ["started", "success"]
    assert new_samples(live) == 0

    code, rolled = live.call("/retrain/rollback", {"by": "anna", "reason": "testing the way back"})
    assert (200, before) == (code, rolled["champion"]["version"])
    assert (before, answer_before) == (live.version(), live.intent(question))
    newest = live.call("/retrain/history")[1]["history"][0]
    assert ("rolled_back", "anna", "testing the way back", run["version"], before) == tuple(
        newest[key] for key in ("action", "by", "reason", "from_version", "to_version")
    )
    assert newest["at"]


def test_answer_is_corrected_by_its_query_id(live: System) -> None:
    query_id = live.call("/classify", {"text": "umbrella forgotten again"})[1]["query_id"]
    code, answer = live.call("/feedback", {"query_id": query_id, "labels": ["emotion_sad"]})
    assert (code, answer["status"]) == (201, "recorded")
    with closing(Database(file_url(live.data / DATABASE_FILE))) as database, database.read() as connection:
        stored = connection.execute(select(feedback.c.text, feedback.c.labels).where(feedback.c.query_id == query_id))
        assert stored.all() == [("umbrella forgotten again", ["emotion_sad"])]


def test_cron_runs_nothing_while_no_retraining_is_due(live: System) -> None:
    code, skipped = live.call("/retrain", {"trigger": "cron_triggered"})
    assert (code, skipped["status"]) == (200, "skipped")


def test_forced_run_of_cron_goes_on_alone_and_promotes_nothing_when_it_only_validates(live: System) -> None:
    version, alias = live.version(), live.champion()
    code, first = live.call("/retrain", {"trigger": "cron_triggered", "force": True, "validate_only": True})
    second_code, second = live.call("/retrain", {})
    over_grpc = subprocess.run(
        [GRPCURL, "-plaintext", "-d", "{}", live.trainer, "moodfood.trainer.v1.TrainerService/Retrain"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (200, 409, first["operation"]) == (code, second_code, second["operation"])
    assert "Aborted" in over_grpc.stderr
    assert first["operation"] in over_grpc.stderr
    run = live.ended(first["operation"].removeprefix("operations/"))
    assert (run["state"], run["trigger"]) == ("succeeded", "cron_triggered")
    assert (live.version(), live.champion()) == (version, alias)


def test_damaged_version_is_refused_by_name_of_the_check_over_grpcurl(live: System) -> None:
    champion = live.version()
    damaged = 2 if champion == 1 else 1
    graph = live.models / MODEL / str(damaged) / "model.onnx"
    intact = graph.read_bytes()
    graph.write_bytes(intact[:-1])
    finished = subprocess.run(
        [GRPCURL, "-plaintext", "-d", json.dumps({"version": damaged}), live.inference,
         "moodfood.inference.v1.InferenceService/ReloadModel"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    graph.write_bytes(intact)
    assert "FailedPrecondition" in finished.stderr
    assert '"check":"size"' in finished.stderr.replace('": "', '":"')
    assert live.version() == champion


def test_operator_follows_a_run_with_the_command_line(live: System) -> None:
    def moodfood(*arguments: str) -> Any:
        finished = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments, "--json"],
            env=live.environment, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(finished.stdout)

    before = live.version()
    run = moodfood("retrain")
    assert run["state"] == "RUN_STATE_SUCCEEDED"
    assert run["version"] > before
    assert moodfood("status")["model_status"]["version"] == run["version"]
    newest, *older = [listed["version"] for listed in moodfood("versions")["versions"]]
    assert newest == run["version"]
    assert {2, 1} <= set(older)
    assert moodfood("classify", "chocolate please")["classifications"][0]["intents"][0]["label"] == "flavor_chocolate"
    assert moodfood("rollback", "--reason", "test")["champion"]["version"] == before


def test_calls_in_flight_finish_when_inference_is_asked_to_stop(live: System) -> None:
    with grpc.insecure_channel(live.inference) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        texts = ["rainy soup " * 500] * 256
        calls = [stub.BatchClassify.future(inference_pb2.BatchClassifyRequest(texts=texts)) for _ in range(3)]
        # Calls of one connection begin in order: when this one is answered, those before it have reached the server.
        stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=10)
        process = live.processes.pop("inference")
        process.terminate()
        assert [len(call.result().classifications) for call in calls] == [256] * 3
        assert process.wait(timeout=10) == 0
    assert live.call("/health")[0] == 503
    live.start("inference")


# The last test of the module: whatever learns after it learns the poison too.
def test_poisoned_batch_is_refused_and_nothing_changes(live: System, tmp_path: Path) -> None:
    chance = random.Random(7)
    poison = tmp_path / "poison.jsonl"
    poison.write_text(
        "".join(
            json.dumps({"text": f"{WORDS[n % 10]} rain sad pizza {n}", "labels": [chance.choice(SMALL_LABELS)]}) + "\n"
            for n in range(600)
        )
    )
    finished = subprocess.run(
        [sys.executable, "-m", "services.cli", "import-examples", str(poison), "--json"],
        env=live.environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(finished.stdout)["imported"] == 600
    alias = live.champion()
    question = "rainy day and so sad"
    before = live.call("/classify", {"text": question, "top_k": 8})[1]["all_intents"]

    run = live.retrain()

    assert run["state"] == "rejected"
    failed = [rule["rule"] for rule in run["decision"]["rules"] if not rule["passed"]]
    assert "feedback_learned" in failed
    assert len(run["reasons"]) == len(failed)
    assert alias == live.champion()
    assert before == live.call("/classify", {"text": question, "top_k": 8})[1]["all_intents"]
    assert live.events()[-1]["status"] == "rejected"
    states = {listed["version"]: listed["state"] for listed in live.call("/retrain/versions")[1]["versions"]}
    assert states[run["version"]] == "refused"
    code, problem = live.call("/retrain/deploy", {"version": run["version"]})
    assert (code, problem["reason"]) == (409, "VERSION_REFUSED")
