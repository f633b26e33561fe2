"""The retraining story: collect, clean, snapshot, train, export, parity, evaluate, decide, register.

It needs no server: the trainer runs it in a child process and then promotes what it registered; `moodfood train` runs
it in place. A stage that cannot be passed raises, and until `register` nothing outside the snapshots has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.cleaning import clean
from services.trainer.embedding_store import EmbeddingStore, open_embeddings
from services.trainer.errors import ModelVersionNotFound, StageFailed
from services.trainer.evaluation import Evaluation, accuracy, evaluate, with_golden
from services.trainer.examples import FEEDBACK, FROM_PEOPLE, Example, read_examples
from services.trainer.export import Graphs, export_graphs
from services.trainer.feedback import FeedbackStore
from services.trainer.label_noise import find_label_noise, worth_leaving_out
from services.trainer.parity import check_parity
from services.trainer.plan import Plan
from services.trainer.promotion import MIN_FEEDBACK_EXAMPLES, Decision, decide
from services.trainer.records import evaluation_report, promotion_decision, to_json
from services.trainer.registry import DECISION_FILE, EVALUATION_FILE, MANIFEST_FILE, ModelRegistry
from services.trainer.scoring import CascadeScorer, lowered_for
from services.trainer.snapshot import DatasetSnapshot, read_snapshot, split, write_snapshot
from services.trainer.stages import Report, RunStage, counted
from services.trainer.stored_version import describe, judged_files, open_version, serving_files
from services.trainer.suspects import write_suspects
from services.trainer.taxonomy import load_taxonomy_labels
from services.trainer.text import normalise
from services.trainer.training import FITS_WITH_HEAD, FITS_WITHOUT_HEAD, Choices, FittedModel, fit

MAX_PROBES = 16
MAX_ANSWERS = 100
EMBED_AT_ONCE = 256
EMBEDDING_SHARE = 0.8


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    version: int
    decision: Decision
    evaluation: Evaluation
    snapshot: pb.Snapshot


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
class _Candidate:
    """A fitted model and its graphs, ready to be asked."""

    graphs: Graphs
    scorer: CascadeScorer


@dataclass(frozen=True)
class _Challenger:
    """What may become a version: the model that serves, and its twin that has not seen the held-out examples."""

    judged: _Candidate
    served: _Candidate
    choices: Choices
    evaluation: Evaluation
    probes: tuple[pb.Probe, ...]
    head_probes: tuple[pb.Probe, ...]
    answers: tuple[pb.Probe, ...]


def retrain(plan: Plan, report: Report) -> Result:
    """Run the story up to a registered version, promoted or refused by the gate.

    Raises:
        BrokenData: a file of the plan cannot be read.
        StageFailed: too little data, or the export is not faithful.
        StorageFailed: the disk refused.

    """
    registry = plan.registry
    report(RunStage.COLLECT, 0.0)
    embeddings = open_embeddings(plan.encoder_dir, registry.embeddings_folder)
    snapshot, summary = _repeated(plan, report) if plan.snapshot_id else _gathered(plan, embeddings, report)
    judged, served, choices = _train(snapshot, embeddings, report)
    report(RunStage.EVALUATE, 0.0)
    challenger = _evaluate_challenger(judged, served, choices, snapshot, snapshot.golden)
    champion_version, champion = _evaluate_champion(registry, snapshot, snapshot.golden, embeddings)
    report(RunStage.DECIDE, 0.0)
    decision = decide(challenger.evaluation, champion, champion_version)
    report(RunStage.REGISTER, 0.0)
    if embeddings is not None:
        embeddings.save()
    manifest = pb.Manifest(model=registry.model, snapshot=summary, training_run=plan.run_id)
    version = registry.register(lambda number: _files(number, manifest, challenger, embeddings, decision))
    return Result(version, decision, challenger.evaluation, summary)


def _repeated(plan: Plan, report: Report) -> tuple[DatasetSnapshot, pb.Snapshot]:
    """Return an earlier snapshot, which was collected and cleaned then."""
    report(RunStage.CLEAN, 0.0)
    report(RunStage.SNAPSHOT, 0.0)
    snapshot = read_snapshot(plan.snapshot_id, plan.registry.snapshots_folder)
    for version in plan.registry.versions():
        earlier = plan.registry.manifest(version).snapshot
        if earlier.id == snapshot.id:
            return snapshot, earlier
    from_people = sum(example.source in FROM_PEOPLE for example in snapshot.learned)
    return snapshot, _summary(snapshot, {}, from_people, datetime.now(UTC))


def _gathered(plan: Plan, embeddings: EmbeddingStore | None, report: Report) -> tuple[DatasetSnapshot, pb.Snapshot]:
    """Collect, clean and snapshot what there is to learn now."""
    collected = _collect(plan)
    report(RunStage.CLEAN, 0.0)
    cleaned = clean(collected.seeds, collected.feedback, (*collected.held_out, *collected.golden), collected.labels)
    if embeddings is not None:
        _embed(embeddings, [example.text for example in cleaned.examples], report)
    suspected = find_label_noise(cleaned.examples, embeddings)
    if plan.suspects_file:
        write_suspects(Path(plan.suspects_file), suspected, cleaned.contradictory)
    noise = worth_leaving_out(suspected, cleaned.examples)
    report(RunStage.SNAPSHOT, 0.0)
    doubted = {suspicion.example for suspicion in noise}
    snapshot = split(
        [example for example in cleaned.examples if example not in doubted],
        _usable(collected.held_out, collected.labels),
        [example for example in _usable(collected.golden, collected.labels) if example.labels],
    )
    write_snapshot(snapshot, plan.registry.snapshots_folder)
    dropped = dict(cleaned.dropped)
    for reason, count in (("malformed_line", collected.malformed), ("suspected_label_noise", len(noise))):
        if count:
            dropped[reason] = count
    return snapshot, _summary(snapshot, dropped, collected.feedback_records, collected.at)


def _embed(embeddings: EmbeddingStore, texts: Sequence[str], report: Report) -> None:
    """Embed what is not embedded yet; it takes most of the stage when all is new."""
    for start in range(0, len(texts), EMBED_AT_ONCE):
        embeddings.embed(texts[start : start + EMBED_AT_ONCE])
        report(RunStage.CLEAN, EMBEDDING_SHARE * min(1.0, (start + EMBED_AT_ONCE) / len(texts)))


def _collect(plan: Plan) -> _Collected:
    seeds, malformed = read_examples(plan.seed_files)
    held_out, _ = read_examples([plan.held_out_file] if plan.held_out_file else [])
    golden, _ = read_examples([plan.golden_file] if plan.golden_file else [])
    records = FeedbackStore(Path(plan.feedback_file)).records() if plan.feedback_file else []
    taxonomy = load_taxonomy_labels(Path(plan.taxonomy_file)) if plan.taxonomy_file else None
    return _Collected(
        seeds=[*(taxonomy.descriptor_examples if taxonomy else ()), *seeds],
        feedback=[
            Example(record.text, tuple(record.labels), record.source if record.source in FROM_PEOPLE else FEEDBACK)
            for record in records
            if not record.deleted
        ],
        held_out=held_out,
        golden=golden,
        labels=taxonomy.names if taxonomy else None,
        feedback_records=len(records),
        malformed=len(malformed),
        at=datetime.now(UTC),
    )


def _usable(examples: Sequence[Example], labels: tuple[str, ...] | None) -> list[Example]:
    """Return examples with labels that exist; evaluation data of another taxonomy says nothing."""
    return [each for each in examples if labels is None or set(each.labels) <= set(labels)]


def _summary(snapshot: DatasetSnapshot, dropped: Mapping[str, int], feedback_records: int, at: datetime) -> pb.Snapshot:
    summary = pb.Snapshot(
        id=snapshot.id,
        train_examples=len(snapshot.learned),
        held_out_examples=len(snapshot.held_out),
        feedback_records=feedback_records,
        dropped=dropped,
    )
    summary.collected_at.FromDatetime(at)
    return summary


def _train(
    snapshot: DatasetSnapshot, embeddings: EmbeddingStore | None, report: Report
) -> tuple[_Candidate, _Candidate, Choices]:
    if not snapshot.train or not snapshot.held_out:
        raise StageFailed(
            f"{len(snapshot.train)} examples to fit and {len(snapshot.held_out)} to evaluate; both need at least one"
        )
    report(RunStage.TRAIN, 0.0)
    models = fit(
        snapshot.learned,
        snapshot.judging,
        embeddings,
        counted(report, RunStage.TRAIN, FITS_WITH_HEAD if embeddings is not None else FITS_WITHOUT_HEAD),
    )
    report(RunStage.EXPORT, 0.0)
    judged = _candidate(models.judged, embeddings)
    served = judged if models.served is models.judged else _candidate(models.served, embeddings)
    report(RunStage.PARITY, 0.0)
    for model, candidate in ((models.judged, judged), (models.served, served)):
        _check_parity(model, candidate.scorer, [example.text for example in snapshot.held_out], embeddings)
    return judged, served, models.served.choices


def _candidate(model: FittedModel, embeddings: EmbeddingStore | None) -> _Candidate:
    graphs = export_graphs(model)
    return _Candidate(graphs, CascadeScorer(graphs, model.labels, model.thresholds, embeddings))


def _check_parity(
    model: FittedModel, scorer: CascadeScorer, texts: Sequence[str], embeddings: EmbeddingStore | None
) -> None:
    exported, scores = scorer.linear(texts)
    check_parity(model.linear.predict_proba([normalise(text) for text in texts]), exported, texts)
    if model.head is not None and embeddings is not None:
        features = np.hstack([embeddings.embed(texts).astype(np.float32), scores])
        check_parity(model.head.predict_proba(features), scorer.head(texts, scores), texts)


def _evaluate_challenger(
    judged: _Candidate, served: _Candidate, choices: Choices, snapshot: DatasetSnapshot, golden: Sequence[Example]
) -> _Challenger:
    golden_texts = [example.text for example in golden]
    thresholds = lowered_for(served.scorer, golden_texts)
    served = replace(served, scorer=served.scorer.with_thresholds(thresholds))
    judged = replace(judged, scorer=judged.scorer.with_thresholds(thresholds))
    evaluation = with_golden(
        evaluate(judged.scorer, snapshot.held_out, served.graphs.size_bytes), served.scorer, golden
    )
    withheld = snapshot.withheld_feedback
    probe_texts = (golden_texts or [example.text for example in snapshot.held_out])[:MAX_PROBES]
    probabilities, scores = served.scorer.linear(probe_texts)
    return _Challenger(
        judged=judged,
        served=served,
        choices=choices,
        evaluation=replace(
            evaluation,
            feedback_examples=len(withheld),
            feedback_accuracy=accuracy(judged.scorer, withheld) if len(withheld) >= MIN_FEEDBACK_EXAMPLES else 0.0,
        ),
        probes=_probes(served.scorer.labels, probe_texts, probabilities),
        head_probes=_probes(served.scorer.labels, probe_texts, served.scorer.head(probe_texts, scores))
        if served.scorer.has_head
        else (),
        answers=_answers(served.scorer, [*golden_texts, *(example.text for example in snapshot.held_out)]),
    )


def _answers(scorer: CascadeScorer, texts: Sequence[str]) -> tuple[pb.Probe, ...]:
    """Return what the cascade says of texts spread evenly over those given, abstained ones left out."""
    chosen = texts[:: max(1, len(texts) // MAX_ANSWERS)][:MAX_ANSWERS]
    answers = scorer.answers(chosen)
    probes = _probes(scorer.labels, chosen, answers.probabilities)
    return tuple(probe for probe, answered in zip(probes, answers.answered, strict=True) if answered)


def _probes(labels: Sequence[str], texts: Sequence[str], probabilities: np.ndarray) -> tuple[pb.Probe, ...]:
    return tuple(
        pb.Probe(text=text, label=labels[int(row.argmax())], confidence=float(row.max()))
        for text, row in zip(texts, probabilities, strict=True)
    )


def _evaluate_champion(
    registry: ModelRegistry, snapshot: DatasetSnapshot, golden: Sequence[Example], embeddings: EmbeddingStore | None
) -> tuple[int, Evaluation | None]:
    alias = registry.champion()
    if alias is None:
        return 0, None
    try:
        scorer, size = open_version(registry, alias.version, embeddings, judged=True)
    except ModelVersionNotFound as error:
        raise StageFailed(
            f"the champion, version {alias.version}, cannot be read to compare with; roll back or promote another"
        ) from error
    return alias.version, with_golden(evaluate(scorer, snapshot.held_out, size), scorer, golden)


def _files(
    version: int,
    manifest: pb.Manifest,
    challenger: _Challenger,
    embeddings: EmbeddingStore | None,
    decision: Decision,
) -> dict[str, bytes]:
    served, encoder = challenger.served, embeddings.encoder if embeddings is not None else None
    manifest.version = version
    manifest.created_at.FromDatetime(datetime.now(UTC))
    describe(
        manifest,
        served.graphs,
        served.scorer.labels,
        served.scorer.thresholds,
        encoder.name if encoder else "",
        encoder.columns if encoder else 0,
    )
    manifest.probes.extend(challenger.probes)
    manifest.answers.extend(challenger.answers)
    if served.graphs.head is not None:
        manifest.head.probes.extend(challenger.head_probes)
    return {
        **serving_files(served.graphs),
        **judged_files(challenger.judged.graphs),
        MANIFEST_FILE: to_json(manifest).encode(),
        EVALUATION_FILE: to_json(evaluation_report(challenger.evaluation, challenger.choices)).encode(),
        DECISION_FILE: to_json(promotion_decision(decision)).encode(),
    }
