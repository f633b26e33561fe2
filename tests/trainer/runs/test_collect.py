import json
from pathlib import Path

import pytest
from moodfood.events.v1.events_pb2 import SuspectRecord

from services.trainer.dataset.examples import FEEDBACK, SEED, TAXONOMY
from services.trainer.errors import BrokenData
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.runs.collect import collect
from services.trainer.runs.plan import Plan
from services.trainer.runs.stages import RunStage
from services.trainer.storage import read_messages

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


def make_plan(folder: Path, *rows: tuple[str, tuple[str, ...]], **files: str) -> Plan:
    return Plan(str(folder / "models"), "m", 10, (write_rows(folder / "seeds.jsonl", *rows),), **files)


def test_missing_held_out_and_golden_files_are_taken_as_empty(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.jsonl")
    plan = make_plan(tmp_path, ("green tea", ("drink",)), held_out_file=nowhere, golden_file=nowhere)
    _, summary = collect(plan, None, ignore)
    assert (summary.train_examples, summary.held_out_examples, dict(summary.dropped)) == (1, 0, {})


def test_missing_seed_file_is_broken_data(tmp_path: Path) -> None:
    with pytest.raises(BrokenData, match="nowhere"):
        collect(Plan(str(tmp_path), "m", 10, (str(tmp_path / "nowhere.jsonl"),)), None, ignore)


def test_snapshot_holds_seeds_feedback_and_descriptors_and_counts_what_was_dropped(tmp_path: Path) -> None:
    taxonomy = tmp_path / "taxonomy.json"
    taxonomy.write_text(json.dumps({"labels": [{"label": "drink", "descriptors": ["beverage"]}, {"label": "bread"}]}))
    feedback = FeedbackStore(tmp_path / "feedback.jsonl")
    feedback.add([Feedback("hot cocoa", ("drink",)), Feedback("a secret", ("bread",), user_id="anna")])
    feedback.delete(lambda record: record.user_id == "anna")
    plan = make_plan(
        tmp_path,
        ("green tea", ("drink",)),
        ("a bun", ("bread",)),
        ("a trout", ("fish",)),
        ("Held out!", ("drink",)),
        held_out_file=write_rows(tmp_path / "held_out.jsonl", ("held out", ("drink",))),
        taxonomy_file=str(taxonomy),
        feedback_file=str(tmp_path / "feedback.jsonl"),
    )
    snapshot, summary = collect(plan, None, ignore)
    learned = {(example.text, example.source) for example in snapshot.fitted_examples}
    expected = {("green tea", SEED), ("a bun", SEED), ("hot cocoa", FEEDBACK), ("beverage", TAXONOMY)}
    assert expected == learned
    assert dict(summary.dropped) == {"unknown_label": 1, "reserved_for_evaluation": 1}
    assert summary.feedback_records == 2
    assert (plan.registry.snapshots_folder / f"{summary.id}.jsonl").is_file()


def test_what_a_run_suspects_is_written_for_a_person_to_read(tmp_path: Path) -> None:
    rows = [
        (f"{some} {first} and {second} number {n}", (label,))
        for label, things in WORDS.items()
        for n, first in enumerate(things)
        for second in things
        for some in ("some", "a bit of", "give me", "rather", "two", "more")
    ]
    suspects = tmp_path / "review" / "suspects.jsonl"
    feedback = FeedbackStore(tmp_path / "feedback.jsonl")
    feedback.add([Feedback("hello", (label,)) for label in WORDS])
    plan = make_plan(
        tmp_path,
        *rows,
        ("tuna and cod and trout", ("bread",)),
        suspects_file=str(suspects),
        feedback_file=str(tmp_path / "feedback.jsonl"),
    )
    collect(plan, None, ignore)
    noise, contradiction = read_messages(suspects, SuspectRecord)
    assert (
        noise.text,
        list(noise.labels),
        noise.reason,
        noise.believed,
    ) == ("tuna and cod and trout", ["bread"], "suspected_noise", "fish")
    assert (contradiction.text, contradiction.reason) == ("hello", "contradictory")
