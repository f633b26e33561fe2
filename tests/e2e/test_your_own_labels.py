"""The page docs/your-own-labels.md comes true: its commands make a classifier of tickets that can be retrained."""

import csv
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.system import System, system

pytestmark = pytest.mark.timeout(240)

PAGE = ROOT / "docs" / "your-own-labels.md"
TICKETS = ROOT / "docs" / "your-own-labels" / "tickets.csv"


def ticket_labels() -> set[str]:
    with TICKETS.open(encoding="utf-8", newline="") as file:
        return {label for row in csv.DictReader(file) for label in row["labels"].split("|")}


def labels_in(answer: dict[str, Any]) -> set[str]:
    return {label for label, _ in answer["all_intents"]}


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system on the data folder that the page's first block of commands makes."""
    folder: Path = tmp_path_factory.mktemp("own")
    (folder / "docs").symlink_to(ROOT / "docs")
    commands = re.findall(r"^mkdir .*\n^cp .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    subprocess.run(["sh", "-ec", commands[0]], cwd=folder, env=dict(os.environ), check=True, timeout=10)
    with system(folder / "tickets", folder / "models", "tickets") as running:
        # The first model serves a moment before its run has ended.
        (run,) = running.call("/retrain/runs")[1]["runs"]
        assert running.ended(run["run_id"])["state"] == "succeeded"
        yield running


def test_unseen_tickets_get_the_right_label_and_no_dishes(tickets: System) -> None:
    assert tickets.intent("the copier jams on every second page") == "printer"
    assert tickets.intent("I cannot sign in because my password is wrong") == "account"
    code, answer = tickets.call("/enhanced-recommend", {"text_input": "the copier jams on every second page"})
    assert (code, answer["recommendations"]) == (200, [])


def test_only_labels_of_the_tickets_are_known(tickets: System) -> None:
    assert len(ticket_labels()) == tickets.call("/model/status")[1]["label_count"]
    for text in ("the copier jams on every second page", "I want spicy noodles", "so sad today"):
        answer = tickets.call("/classify", {"text": text, "top_k": 100})[1]
        assert labels_in(answer) <= ticket_labels() | {"unknown"}


def test_label_that_no_ticket_carries_is_refused_by_name(tickets: System) -> None:
    code, problem = tickets.call("/feedback", {"text": "my badge does not open the door", "labels": ["flavor_spicy"]})
    assert (code, problem["reason"]) == (400, "INVALID_REQUEST")
    (error,) = problem["errors"]
    assert error["field"] == "labels[0]"
    assert "flavor_spicy" in error["description"]


def test_feedback_is_learned_by_the_next_run(tickets: System) -> None:
    before = tickets.version()
    code, answer = tickets.call("/feedback", {"text": "my badge does not open the door", "labels": ["account"]})
    assert (code, answer["status"]) == (201, "recorded")
    run = tickets.retrain()
    assert run["state"] == "succeeded", run["reasons"]
    assert before + 1 == run["version"] == tickets.version()
    assert tickets.events()[-1]["details"]["new_samples"] == 1
    assert tickets.intent("my badge does not open the door") == "account"
