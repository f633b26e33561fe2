"""The retraining story: collect, clean, snapshot, train, export, parity, evaluate, decide, register.

It needs no server: the trainer runs it in a child process and then promotes what it registered; `moodfood train` runs
it in place. A stage that cannot be passed raises, and until `register` nothing outside the snapshots has changed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.abstention import choose_min_confidence
from services.trainer.cleaning import Cleaned, clean
from services.trainer.errors import ModelVersionNotFound, StageFailed
from services.trainer.evaluation import Evaluation, accuracy, evaluate
from services.trainer.examples import FEEDBACK, Example, read_examples
from services.trainer.export import INPUT_NAME, INPUT_TYPE, OUTPUT_NAME, OUTPUT_TYPE, export_graph
from services.trainer.feedback import FeedbackStore
from services.trainer.parity import check_parity
from services.trainer.plan import Plan
from services.trainer.promotion import MIN_FEEDBACK_EXAMPLES, Decision, decide
from services.trainer.records import evaluation_report, promotion_decision, to_json
from services.trainer.registry import DECISION_FILE, EVALUATION_FILE, GRAPH_FILE, MANIFEST_FILE, ModelRegistry
from services.trainer.scoring import GraphScorer
from services.trainer.snapshot import DatasetSnapshot, split, write_snapshot
from services.trainer.stages import RunStage
from services.trainer.taxonomy import load_taxonomy_labels
from services.trainer.text import NORMALIZER
from services.trainer.training import fit

MAX_PROBES = 16


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    version: int
    decision: Decision
    evaluation: Evaluation
    snapshot: pb.Snapshot


Report = Callable[[RunStage], None]


@dataclass(frozen=True)
class _Collected:
    seeds: Sequence[Example]
    feedback: Sequence[Example]
    held_out: Sequence[Example]
    golden: Sequence[Example]
    labels: tuple[str, ...] | None
    feedback_records: int
    malformed: int
    at: datetime


@dataclass(frozen=True)
class _Challenger:
    graph: bytes
    scorer: GraphScorer
    evaluation: Evaluation
    min_confidence: float
    probes: tuple[pb.Probe, ...]


def retrain(plan: Plan, report: Report) -> Result:
    """Run the story up to a registered version, promoted or refused by the gate.

    Raises:
        BrokenData: a file of the plan cannot be read.
        StageFailed: too little data, or the export is not faithful.
        StorageFailed: the disk refused.

    """
    registry = plan.registry
    report(RunStage.COLLECT)
    collected = _collect(plan)
    report(RunStage.CLEAN)
    cleaned = clean(collected.seeds, collected.feedback, (*collected.held_out, *collected.golden), collected.labels)
    report(RunStage.SNAPSHOT)
    snapshot = split(cleaned.examples, _usable(collected.held_out, collected.labels))
    write_snapshot(snapshot, registry.snapshots_folder)
    summary = _summary(snapshot, cleaned, collected)
    graph, scorer, feedback_accuracy = _train(snapshot, report)
    report(RunStage.EVALUATE)
    golden = _usable(collected.golden, collected.labels)
    challenger = _evaluate_challenger(graph, scorer, feedback_accuracy, snapshot, golden)
    champion_version, champion = _evaluate_champion(registry, snapshot, golden)
    report(RunStage.DECIDE)
    decision = decide(challenger.evaluation, champion, champion_version)
    report(RunStage.REGISTER)
    manifest = pb.Manifest(model=registry.model, snapshot=summary, training_run=plan.run_id)
    version = registry.register(lambda number: _files(number, manifest, challenger, decision))
    return Result(version, decision, challenger.evaluation, summary)


def _collect(plan: Plan) -> _Collected:
    seeds, malformed = read_examples(plan.seed_files)
    held_out, _ = read_examples([plan.held_out_file] if plan.held_out_file else [])
    golden, _ = read_examples([plan.golden_file] if plan.golden_file else [])
    records = FeedbackStore(Path(plan.feedback_file)).records() if plan.feedback_file else []
    taxonomy = load_taxonomy_labels(Path(plan.taxonomy_file)) if plan.taxonomy_file else None
    return _Collected(
        seeds=[*(taxonomy.descriptor_examples if taxonomy else ()), *seeds],
        feedback=[Example(record.text, tuple(record.labels), FEEDBACK) for record in records],
        held_out=held_out,
        golden=golden,
        labels=taxonomy.names if taxonomy else None,
        feedback_records=len(records),
        malformed=len(malformed),
        at=datetime.now(UTC),
    )


def _usable(examples: Sequence[Example], labels: tuple[str, ...] | None) -> list[Example]:
    """Return examples with labels that exist; evaluation data of another taxonomy says nothing."""
    return [each for each in examples if each.labels and (labels is None or set(each.labels) <= set(labels))]


def _summary(snapshot: DatasetSnapshot, cleaned: Cleaned, collected: _Collected) -> pb.Snapshot:
    dropped = dict(cleaned.dropped)
    if collected.malformed:
        dropped["malformed_line"] = collected.malformed
    summary = pb.Snapshot(
        id=snapshot.id,
        train_examples=len(snapshot.train) + len(snapshot.withheld_feedback),
        held_out_examples=len(snapshot.held_out),
        feedback_records=collected.feedback_records,
        dropped=dropped,
    )
    summary.collected_at.FromDatetime(collected.at)
    return summary


def _train(snapshot: DatasetSnapshot, report: Report) -> tuple[bytes, GraphScorer, float]:
    if not snapshot.train or not snapshot.held_out:
        raise StageFailed(
            f"{len(snapshot.train)} examples to fit and {len(snapshot.held_out)} to evaluate; both need at least one"
        )
    report(RunStage.TRAIN)
    feedback_accuracy = _feedback_accuracy(snapshot)
    model = fit((*snapshot.train, *snapshot.withheld_feedback))
    report(RunStage.EXPORT)
    graph = export_graph(model)
    report(RunStage.PARITY)
    scorer = GraphScorer(graph, model.labels)
    texts = [example.text for example in snapshot.held_out]
    check_parity(model.probabilities(texts), scorer.probabilities(texts), texts)
    return graph, scorer, feedback_accuracy


def _feedback_accuracy(snapshot: DatasetSnapshot) -> float:
    """Fit without the withheld feedback and return the accuracy on it; 0 when it is too little to judge by."""
    if len(snapshot.withheld_feedback) < MIN_FEEDBACK_EXAMPLES:
        return 0.0
    return accuracy(fit(snapshot.train), snapshot.withheld_feedback)


def _evaluate_challenger(
    graph: bytes, scorer: GraphScorer, feedback_accuracy: float, snapshot: DatasetSnapshot, golden: Sequence[Example]
) -> _Challenger:
    held_out_texts = [example.text for example in snapshot.held_out]
    golden_texts = [example.text for example in golden]
    return _Challenger(
        graph=graph,
        scorer=scorer,
        evaluation=replace(
            evaluate(scorer, snapshot.held_out, golden, len(graph)),
            feedback_examples=len(snapshot.withheld_feedback),
            feedback_accuracy=feedback_accuracy,
        ),
        min_confidence=choose_min_confidence(
            scorer.probabilities(held_out_texts), scorer.probabilities(golden_texts), scorer.probabilities([""])
        ),
        probes=_probes(scorer, (golden_texts or held_out_texts)[:MAX_PROBES]),
    )


def _probes(scorer: GraphScorer, texts: Sequence[str]) -> tuple[pb.Probe, ...]:
    probabilities = scorer.probabilities(texts)
    return tuple(
        pb.Probe(text=text, label=scorer.labels[int(row.argmax())], confidence=float(row.max()))
        for text, row in zip(texts, probabilities, strict=True)
    )


def _evaluate_champion(
    registry: ModelRegistry, snapshot: DatasetSnapshot, golden: Sequence[Example]
) -> tuple[int, Evaluation | None]:
    alias = registry.champion()
    if alias is None:
        return 0, None
    try:
        graph = registry.graph(alias.version)
        scorer = GraphScorer(graph, registry.manifest(alias.version).labels)
    except ModelVersionNotFound as error:
        raise StageFailed(
            f"the champion, version {alias.version}, cannot be read to compare with; roll back or promote another"
        ) from error
    return alias.version, evaluate(scorer, snapshot.held_out, golden, len(graph))


def _files(version: int, manifest: pb.Manifest, challenger: _Challenger, decision: Decision) -> dict[str, bytes]:
    labels = challenger.scorer.labels
    manifest.version = version
    manifest.created_at.FromDatetime(datetime.now(UTC))
    manifest.labels.extend(labels)
    manifest.normalizer = NORMALIZER
    manifest.input.CopyFrom(pb.Tensor(name=INPUT_NAME, type=INPUT_TYPE, columns=1))
    manifest.output.CopyFrom(pb.Tensor(name=OUTPUT_NAME, type=OUTPUT_TYPE, columns=len(labels)))
    manifest.files.add(
        path=GRAPH_FILE,
        sha256=hashlib.sha256(challenger.graph).hexdigest(),
        size_bytes=len(challenger.graph),
    )
    manifest.probes.extend(challenger.probes)
    manifest.min_confidence = challenger.min_confidence
    return {
        GRAPH_FILE: challenger.graph,
        MANIFEST_FILE: to_json(manifest).encode(),
        EVALUATION_FILE: to_json(evaluation_report(challenger.evaluation)).encode(),
        DECISION_FILE: to_json(promotion_decision(decision)).encode(),
    }
