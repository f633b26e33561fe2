"""The command line without servers: train, evaluate, and what it says when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_without_the_encoder_a_model_is_trained_and_evaluated_and_a_worse_one_exits_with_2_and_changes_nothing(
    small_data: Path, tmp_path: Path
) -> None:
    train, held_out = small_data / "examples" / "train" / "mood_food.jsonl", small_data / "examples" / "held_out.jsonl"
    place = ("--models", str(tmp_path), "--encoder", str(tmp_path / "nowhere"), "--json")
    trained = moodfood("train", "--examples", str(train), "--held-out", str(held_out), *place)
    assert (trained.returncode, json.loads(trained.stdout)["transformer_stage"]) == (0, False)
    assert "make encoder" in trained.stderr
    measured = json.loads(moodfood("evaluate", "--examples", str(held_out), *place).stdout)
    assert (measured["transformer_stage"], measured["escalated"]) == (False, 0)

    rows = [json.loads(line) for line in train.read_text().splitlines()]
    labels = sorted({label for row in rows for label in row["labels"]})
    worse = [{"text": row["text"], "labels": [labels[n * n % len(labels)]]} for n, row in enumerate(rows)]
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("".join(json.dumps(row) + "\n" for row in worse))
    alias = (tmp_path / "mood_food" / "champion").read_text()
    refused = moodfood("train", "--examples", str(shuffled), "--held-out", str(held_out), *place)
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
