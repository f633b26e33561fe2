import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.database.database import Database
from services.trainer.dataset.snapshot import FOLDER, file_of, read_snapshot
from services.trainer.dataset.vectors import digest_of, open_vectors, to_keys
from services.trainer.errors import BrokenData, SnapshotNotFound, StageFailed
from services.trainer.feedback.deletion import delete_person
from services.trainer.feedback.run_feedback import RunFeedback
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.graphs.version import open_serving_model
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.collect import collect
from services.trainer.runs.plan import Plan
from services.trainer.runs.retrain import retrain
from services.trainer.runs.stages import Report, RunStage
from tests.conftest import ENCODER, ROOT, SMALL_LABELS, FirstRun, small_plan
from tests.registries import MODEL, database_beside, open_registry, promote


@dataclass(frozen=True)
class Registered:
    """What the registry holds of a version."""

    version: int
    decision: pb.PromotionDecision
    evaluation: pb.EvaluationReport
    snapshot: pb.Snapshot

    @property
    def failed(self) -> set[str]:
        return {rule.rule for rule in self.decision.rules if not rule.passed}


def train(plan: Plan) -> Registered:
    version = retrain(plan, lambda _stage, _share: None)
    versions = plan.registry.versions
    return Registered(
        version, versions.decision(version), versions.evaluation(version), versions.manifest(version).snapshot
    )


def top_label(registry: ModelRegistry, version: int, text: str) -> str:
    cascade, _ = open_serving_model(registry, version, None)
    return cascade.labels[int(cascade.answer([text]).probabilities[0].argmax())]


class StageReached(Exception):
    """A run has come as far as a test wants it."""


def until(last: RunStage) -> Report:
    """Return a report that ends the run at the beginning of a stage."""

    def report(stage: RunStage, _share: float) -> None:
        if stage is last:
            raise StageReached

    return report


def without_encoder(plan: Plan) -> Plan:
    return replace(plan, encoder_dir="")


def test_stages_come_in_order_and_a_version_is_registered(first_run: FirstRun) -> None:
    versions = open_registry(first_run.models).versions
    seen = list(dict.fromkeys(stage for stage, _ in first_run.reports))
    assert [stage for stage in RunStage if stage not in {RunStage.REHEARSE, RunStage.PROMOTE}] == seen
    percents = [stage.percent(share) for stage, share in first_run.reports]
    assert sorted(percents) == percents
    assert all(after - before <= 30 for before, after in pairwise(percents)), percents
    assert (versions.decision(1).promoted, first_run.version) == (True, 1)
    folder = first_run.models / MODEL / "1"
    assert {
        "model.onnx", "explanation.onnx", "head.onnx", "judged_model.onnx", "judged_head.onnx",
        "manifest.json", "evaluation.json", "decision.json",
    } == {path.name for path in folder.iterdir()}  # fmt: skip
    assert (first_run.models / MODEL / "snapshots" / f"{versions.manifest(1).snapshot.id}.parquet").exists()


def test_same_data_gives_the_same_model(trained_models: Path) -> None:
    registry = open_registry(trained_models)
    for name in ("model.onnx", "head.onnx", "judged_model.onnx", "judged_head.onnx"):
        assert registry.versions.file(1, name) == registry.versions.file(2, name)
    assert registry.versions.manifest(1).snapshot.id == registry.versions.manifest(2).snapshot.id


REPEATED_RUN = """
import sys
from services.trainer.runs.collect import collect
from services.trainer.runs.plan import Plan
from services.trainer.runs.retrain import retrain
models, encoder, snapshot = sys.argv[1:]
print(retrain(Plan(models, "small", 10, (), encoder_dir=encoder, snapshot_id=snapshot), lambda _s, _p: None))
"""


def test_run_is_repeated_from_its_snapshot_by_another_process_and_gives_the_same_bytes(models: Path) -> None:
    """The seed of Python's hashes is another one there, so the order of no set plays a part."""
    versions = open_registry(models).versions
    snapshot = versions.manifest(1).snapshot
    finished = subprocess.run(
        [sys.executable, "-c", REPEATED_RUN, str(models), str(ENCODER), snapshot.id],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    version = int(finished.stdout)
    for name in ("model.onnx", "explanation.onnx", "head.onnx", "judged_model.onnx", "judged_head.onnx"):
        assert versions.file(1, name) == versions.file(version, name), name
    repeated = versions.manifest(version)
    assert (snapshot.id, versions.manifest(1).min_confidence) == (repeated.snapshot.id, repeated.min_confidence)
    assert repeated.snapshot in [versions.manifest(number).snapshot for number in (1, 2)]


def test_damaged_or_missing_snapshot_is_refused_by_name(small_data: Path, models: Path) -> None:
    registry = open_registry(models)
    name = registry.versions.manifest(1).snapshot.id
    path = registry.folder / file_of(name)
    for damage in (path.read_bytes()[:-20], b"", b'{"part": "nowhere"}\n'):
        path.write_bytes(damage)
        with pytest.raises(SnapshotNotFound, match=name):
            retrain(replace(small_plan(small_data, models), snapshot_id=name), lambda _stage, _share: None)
    with pytest.raises(SnapshotNotFound):
        retrain(replace(small_plan(small_data, models), snapshot_id="../../etc/passwd"), lambda _stage, _share: None)


def test_damaged_snapshot_is_written_anew_by_a_run_that_has_its_data(small_data: Path, models: Path) -> None:
    registry = open_registry(models)
    path = registry.folder / file_of(registry.versions.manifest(1).snapshot.id)
    intact = path.read_bytes()
    path.write_bytes(intact[:100])
    with pytest.raises(StageReached):
        retrain(small_plan(small_data, models), until(RunStage.TRAIN))
    assert intact == path.read_bytes()


def test_word_that_feedback_taught_is_understood(small_data: Path, models: Path) -> None:
    registry = open_registry(models)
    store = FeedbackStore(database_beside(models))
    store.add([Feedback(f"something glorptastic number {n}", ("flavor_spicy",)) for n in range(30)])
    result = train(small_plan(small_data, models))
    assert result.decision.promoted, result.failed
    assert top_label(registry, result.version, "a glorptastic evening") == "flavor_spicy"
    assert top_label(registry, 1, "a glorptastic evening") != "flavor_spicy"
    assert registry.versions.manifest(result.version).snapshot.feedback_records == 30


@pytest.mark.parametrize(
    "text",
    [lambda n: f"gibberish zzz{n} qqq{n * 7}", lambda n: f"pizza rainy chocolate sad {n}"],
    ids=["texts unlike any other", "texts like the real ones"],
)
def test_poisoned_feedback_is_refused_with_the_rules_that_failed(
    small_data: Path, models: Path, text: Callable[[int], str]
) -> None:
    chance = random.Random(7)
    store = FeedbackStore(database_beside(models))
    store.add([Feedback(text(n), (chance.choice(SMALL_LABELS),)) for n in range(600)])
    result = train(small_plan(small_data, models))
    assert (result.decision.promoted, result.failed) == (False, {"feedback_learned"})
    decision = json.loads((models / MODEL / str(result.version) / "decision.json").read_text())
    assert decision["promoted"] is False


def test_held_out_and_golden_queries_are_never_learned(small_data: Path, models: Path, sqlite_url: str) -> None:
    store = FeedbackStore(Database(sqlite_url))
    store.add([Feedback("Pizza!", ("emotion_sad",))])
    result = train(without_encoder(small_plan(small_data, models, sqlite_url)))
    assert result.snapshot.dropped["reserved_for_evaluation"] >= 1
    assert result.decision.promoted


def test_any_labels_and_examples_can_be_trained_without_a_taxonomy(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    rows = [{"text": f"turn the {w} {a} number {n}", "labels": [f"{w}_{a}"]}
            for n in range(60) for w in ("light", "radio") for a in ("on", "off")]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    database_beside(tmp_path / "m")
    result = train(Plan(str(tmp_path / "m"), "home", 10, (str(path),)))
    assert (result.decision.promoted, result.evaluation.accuracy) == (True, 1.0)
    assert dict(result.snapshot.dropped) == {"malformed_line": 1}


@pytest.mark.parametrize(
    ("rows", "error"),
    [([], StageFailed), ([{"text": f"only one {n}", "labels": ["a"]} for n in range(50)], StageFailed)],
)
def test_too_little_data_ends_the_run_and_registers_nothing(
    tmp_path: Path, rows: list[dict[str, object]], error: type[Exception]
) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    database_beside(tmp_path / "m")
    plan = Plan(str(tmp_path / "m"), "home", 10, (str(path),))
    with pytest.raises(error):
        retrain(plan, lambda _stage, _share: None)
    assert plan.registry.versions.numbers() == []


def test_file_that_is_missing_is_broken_data(tmp_path: Path) -> None:
    database_beside(tmp_path)
    with pytest.raises(BrokenData, match="nowhere"):
        retrain(Plan(str(tmp_path), "home", 10, (str(tmp_path / "nowhere.jsonl"),)), lambda _stage, _share: None)


def test_champion_that_cannot_be_read_stops_the_run_instead_of_lowering_the_bar(small_data: Path, models: Path) -> None:
    registry = open_registry(models)
    promote(registry, 2)
    (registry.folder / "2" / "judged_model.onnx").unlink()
    with pytest.raises(StageFailed, match="the champion, version 2, cannot be read"):
        retrain(without_encoder(small_plan(small_data, models)), lambda _stage, _share: None)


def test_without_an_encoder_the_version_has_no_transformer_stage(small_data: Path, tmp_path: Path) -> None:
    database_beside(tmp_path)
    plan = replace(small_plan(small_data, tmp_path), encoder_dir=str(tmp_path / "nowhere"))
    result = train(plan)
    assert result.decision.promoted
    assert not plan.registry.versions.manifest(1).HasField("head")
    assert not (plan.registry.folder / "1" / "head.onnx").exists()


def test_choices_and_their_curves_are_in_the_report(trained_models: Path) -> None:
    registry = open_registry(trained_models)
    choices, head = registry.versions.evaluation(1).choices, registry.versions.manifest(1).head
    assert choices.out_of_fold_examples > 100
    assert head.escalate_below_margin > 0
    assert [p.escalated for p in choices.escalation] == sorted(p.escalated for p in choices.escalation)
    assert choices.escalation[-1].escalated == 1
    assert choices.escalation[-1].accuracy == pytest.approx(choices.transformer_accuracy)
    assert [p.coverage for p in choices.abstention] == sorted((p.coverage for p in choices.abstention), reverse=True)


def test_examples_without_a_label_are_learned_as_out_of_scope(small_data: Path, models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.jsonl"
    subjects = ("tyres", "taxes", "passwords", "flights", "mortgages", "printers", "lawyers", "batteries")
    verbs = ("change", "check", "cancel", "renew", "report", "lose", "compare", "insure", "reset", "sell")
    rows = [{"text": f"how do i {verb} my {subject}", "labels": []} for verb in verbs for subject in subjects]
    outside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = small_plan(small_data, models)
    plan = replace(plan, seed_files=(*plan.seed_files, str(outside)))
    result = train(plan)
    assert result.evaluation.out_of_scope_examples > 0
    assert result.evaluation.out_of_scope_recall >= 0.9


def forgetting_at(last: RunStage, database: Database) -> Report:
    """Return a report that deletes what anna said when a run begins a stage."""

    def report(stage: RunStage, _share: float) -> None:
        if stage is last:
            with database.write() as connection:
                delete_person(connection, "anna")

    return report


@pytest.mark.parametrize("stage", [RunStage.SNAPSHOT, RunStage.REGISTER])
@pytest.mark.parametrize("is_repeated", [False, True], ids=["data as it is", "snapshot repeated"])
def test_words_that_are_deleted_while_a_run_goes_on_are_not_registered(
    tmp_path: Path, stage: RunStage, is_repeated: bool
) -> None:
    rows = [{"text": f"turn the light {a} number {n}", "labels": [a]} for n in range(60) for a in ("on", "off")]
    path, database = tmp_path / "examples.jsonl", database_beside(tmp_path / "m")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    FeedbackStore(database).add(
        [Feedback("my own lamp", ("on",), user_id="anna"), Feedback("the lamp", ("on",), user_id="ben")]
    )
    plan = Plan(str(tmp_path / "m"), "home", 10, (str(path),))
    if is_repeated:
        snapshot, _ = collect(plan, RunFeedback(database), None, lambda _stage, _share: None)
        plan = replace(plan, snapshot_id=snapshot.id)
    with pytest.raises(StageFailed, match="1 of the texts that the run learned from were deleted"):
        retrain(plan, forgetting_at(stage, database))
    assert plan.registry.versions.numbers() == []
    assert plan.registry.repository.list_files(FOLDER) == []
    again = train(replace(plan, snapshot_id=""))
    learned = read_snapshot(again.snapshot.id, plan.registry.repository).fitted_examples
    assert tuple(text in {example.text for example in learned} for text in ("the lamp", "my own lamp")) == (True, False)


def test_embeddings_of_words_that_are_deleted_while_a_run_goes_on_are_deleted_too(
    small_data: Path, models: Path, tmp_path: Path
) -> None:
    database = database_beside(models)
    FeedbackStore(database).add([Feedback("my secret porridge", ("meal_breakfast",), user_id="anna")])
    plan = small_plan(small_data, models)
    with pytest.raises(StageFailed, match="were deleted"):
        retrain(plan, forgetting_at(RunStage.REGISTER, database))
    (path,) = plan.registry.embeddings_folder.glob("*.vectors")
    found = open_vectors(path).find(to_keys([digest_of("my secret porridge"), digest_of("pizza")]))
    assert (found[0], found[1] >= 0) == (-1, True)
    assert plan.registry.versions.numbers() == [2, 1]
