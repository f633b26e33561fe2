"""The command line without servers: train, evaluate, and what it says when something is wrong."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc_testing
import pytest
from google.longrunning import operations_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.cli import operating
from services.cli.__main__ import repeated
from tests.conftest import ROOT


def moodfood(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_any_examples_can_be_trained_and_evaluated(small_data: Path, tmp_path: Path) -> None:
    train, held_out = small_data / "examples" / "train" / "mood_food.jsonl", small_data / "examples" / "held_out.jsonl"
    place = ("--models", str(tmp_path), "--model", "mine", "--json")
    trained = moodfood("train", "--examples", str(train), *place)
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert (summary["promoted"], summary["version"], summary["model"]) == (True, 1, "mine")
    assert summary["transformer_stage"]
    evaluated = moodfood("evaluate", "--examples", str(held_out), str(train), *place)
    measured = json.loads(evaluated.stdout)
    assert {"accuracy", "macro_f1", "recall_at_3", "query_micros", "escalated", "coverage"} <= measured.keys()
    assert 0.5 < measured["accuracy"] <= 1
    lines = held_out.read_text().count("\n") + train.read_text().count("\n")
    assert measured["examples"] == lines


def test_model_can_be_trained_and_evaluated_without_the_encoder(small_data: Path, tmp_path: Path) -> None:
    train, held_out = small_data / "examples" / "train" / "mood_food.jsonl", small_data / "examples" / "held_out.jsonl"
    place = ("--models", str(tmp_path), "--encoder", str(tmp_path / "nowhere"), "--json")
    trained = moodfood("train", "--examples", str(train), *place)
    assert (trained.returncode, json.loads(trained.stdout)["transformer_stage"]) == (0, False)
    assert "make encoder" in trained.stderr
    measured = json.loads(moodfood("evaluate", "--examples", str(held_out), *place).stdout)
    assert (measured["transformer_stage"], measured["escalated"]) == (False, 0)


def test_challenger_that_is_worse_exits_with_2_and_changes_nothing(small_data: Path, tmp_path: Path) -> None:
    train = small_data / "examples" / "train" / "mood_food.jsonl"
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    labels = sorted({label for row in rows for label in row["labels"]})
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text(
        "".join(
            json.dumps({"text": r["text"], "labels": [labels[n * n % len(labels)]]}) + "\n" for n, r in enumerate(rows)
        )
    )
    place = ("--held-out", str(small_data / "examples" / "held_out.jsonl"), "--models", str(tmp_path), "--json")
    assert moodfood("train", "--examples", str(train), *place).returncode == 0
    alias = (tmp_path / "mood_food" / "champion").read_text()
    refused = moodfood("train", "--examples", str(shuffled), *place)
    assert (refused.returncode, json.loads(refused.stdout)["promoted"]) == (2, False)
    assert alias == (tmp_path / "mood_food" / "champion").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--examples", "nowhere.jsonl", "--models", "{tmp}"], "there is no file nowhere.jsonl"),
        (["evaluate", "--examples", "README.md", "--models", "{tmp}"], "no champion"),
        (["import-examples", "nowhere.csv"], "No such file"),
    ],
)
def test_what_the_user_can_mend_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    finished = moodfood(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert finished.returncode == 1
    assert said in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def test_examples_option_takes_several_files() -> None:
    assert repeated(["train", "--examples", "a", "b", "--models", "m", "x"]) == [
        "train", "--examples", "a", "--examples", "b", "--models", "m", "x",
    ]  # fmt: skip


def test_run_is_followed_change_by_change_until_it_ends() -> None:
    """The client against a scripted server: grpcio-testing plays the trainer."""
    service = pb.DESCRIPTOR.services_by_name["TrainerService"]
    channel = grpc_testing.channel([service], grpc_testing.strict_real_time())
    shown: list[int] = []
    with ThreadPoolExecutor(1) as executor:
        followed = executor.submit(
            operating.retrain, channel, pb.TRIGGER_MANUAL, True, False, lambda run: shown.append(run.percent)
        )
        _, request, retrain = channel.take_unary_unary(service.methods_by_name["Retrain"])
        operation = operations_pb2.Operation(name="operations/r1")
        operation.metadata.Pack(pb.TrainingRun(run_id="r1"))
        retrain.send_initial_metadata(())
        retrain.terminate(operation, (), grpc.StatusCode.OK, "")
        _, watched, stream = channel.take_unary_stream(service.methods_by_name["WatchTrainingRun"])
        stream.send_initial_metadata(())
        for percent in (8, 70, 100):
            state = pb.RUN_STATE_SUCCEEDED if percent == 100 else pb.RUN_STATE_RUNNING
            stream.send_response(pb.WatchTrainingRunResponse(run=pb.TrainingRun(percent=percent, state=state)))
        stream.terminate((), grpc.StatusCode.OK, "")
        run = followed.result(timeout=10)
    assert (request.force, watched.run_id, shown, run.state) == (True, "r1", [8, 70, 100], pb.RUN_STATE_SUCCEEDED)
