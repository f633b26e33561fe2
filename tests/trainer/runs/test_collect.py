import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.database.database import Database
from services.trainer.dataset.examples import FEEDBACK, SEED, TAXONOMY
from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import BrokenData
from services.trainer.feedback.review import Reason
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.run_feedback import RunFeedback
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.runs.collect import collect
from services.trainer.runs.plan import Plan
from services.trainer.runs.stages import RunStage
from tests.registries import database_beside

WORDS = {
    "drink": ["juice", "tea", "coffee", "cola"],
    "bread": ["toast", "bagel", "roll", "bun"],
    "fish": ["salmon", "tuna", "cod", "trout"],
}


def ignore(_stage: RunStage, _share: float) -> None:
    pass


def write_rows(path: Path, *rows: tuple[str, tuple[str, ...]]) -> str:
    path.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows))
    return str(path)


def make_plan(folder: Path, *rows: tuple[str, tuple[str, ...]], **files: Any) -> Plan:
    database_beside(folder / "models")
    return Plan(str(folder / "models"), "m", 10, (write_rows(folder / "seeds.jsonl", *rows),), **files)


def test_missing_held_out_and_golden_files_are_taken_as_empty(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.jsonl")
    plan = make_plan(tmp_path, ("green tea", ("drink",)), held_out_file=nowhere, golden_file=nowhere)
    _, summary = collect(plan, RunFeedback(plan.database), None, ignore)
    assert (summary.train_examples, summary.held_out_examples, dict(summary.dropped)) == (1, 0, {})


def test_missing_seed_file_is_broken_data(tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match="nowhere"):
        collect(Plan(str(tmp_path), "m", 10, (str(tmp_path / "nowhere.jsonl"),)), None, None, ignore)


def test_snapshot_holds_seeds_feedback_and_descriptors_and_counts_what_was_dropped(
    tmp_path: Path, sqlite_url: str
) -> None:
    taxonomy = tmp_path / "taxonomy.json"
    taxonomy.write_text(json.dumps({"labels": [{"label": "drink", "descriptors": ["beverage"]}, {"label": "bread"}]}))
    FeedbackStore(Database(sqlite_url)).add([Feedback("hot cocoa", ("drink",))])
    plan = make_plan(
        tmp_path,
        ("green tea", ("drink",)),
        ("a bun", ("bread",)),
        ("a trout", ("fish",)),
        ("Held out!", ("drink",)),
        held_out_file=write_rows(tmp_path / "held_out.jsonl", ("held out", ("drink",))),
        taxonomy_file=str(taxonomy),
        database_url=sqlite_url,
    )
    snapshot, summary = collect(plan, RunFeedback(plan.database), None, ignore)
    learned = {(example.text, example.source) for example in snapshot.fitted_examples}
    expected = {("green tea", SEED), ("a bun", SEED), ("hot cocoa", FEEDBACK), ("beverage", TAXONOMY)}
    assert expected == learned
    assert dict(summary.dropped) == {"unknown_label": 1, "reserved_for_evaluation": 1}
    assert summary.feedback_records == 1
    assert snapshot == read_snapshot(summary.id, plan.registry.repository)


def test_what_a_run_suspects_waits_for_a_person(tmp_path: Path, sqlite_url: str) -> None:
    rows = [
        (f"{some} {first} and {second} number {n}", (label,))
        for label, things in WORDS.items()
        for n, first in enumerate(things)
        for second in things
        for some in ("some", "a bit of", "give me", "rather", "two", "more")
    ]
    database = Database(sqlite_url)
    FeedbackStore(database).add([Feedback("hello", (label,)) for label in WORDS])
    plan = make_plan(
        tmp_path,
        *rows,
        ("tuna and cod and trout", ("bread",)),
        database_url=sqlite_url,
    )
    collect(plan, RunFeedback(plan.database), None, ignore)
    contradiction, noise = sorted(ReviewQueue(database, set).items(set(), 9)[0], key=lambda item: item.text)
    assert (
        noise.text,
        noise.labels,
        noise.reason,
        noise.believed,
    ) == ("tuna and cod and trout", ("bread",), Reason.SUSPECTED_NOISE, "fish")
    assert (contradiction.text, contradiction.reason) == ("hello", Reason.DISAGREEING)
