"""Trains and registers a version: collect, clean, snapshot, train, export, parity, evaluate, decide, register.

It needs no server. The trainer runs it in a child process, and `moodfood train` runs it directly; both promote the
version afterwards. A stage that fails raises an exception. Before `register`, only the dataset snapshot is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import MANIFEST_FILE
from services.language.text import normalise
from services.trainer.dataset.examples import Example
from services.trainer.dataset.snapshot import DatasetSnapshot
from services.trainer.errors import ModelVersionNotFound, StageFailed
from services.trainer.evaluation.gate import MIN_FEEDBACK_EXAMPLES, Decision, decide
from services.trainer.evaluation.metrics import Evaluation, measure_accuracy
from services.trainer.evaluation.reports import evaluation_report, promotion_decision
from services.trainer.fitting.fit import FITS_WITH_HEAD, FITS_WITHOUT_HEAD, Choices, FittedModel, fit
from services.trainer.graphs.cascade import Cascade, lower_thresholds
from services.trainer.graphs.embeddings import EmbeddingStore, open_embeddings
from services.trainer.graphs.export import Graphs, export_graphs
from services.trainer.graphs.parity import check_parity
from services.trainer.graphs.version import describe, evaluation_files, open_evaluation_model, serving_files
from services.trainer.registry.registry import ModelRegistry
from services.trainer.registry.versions import DECISION_FILE, EVALUATION_FILE
from services.trainer.runs.collect import collect, repeat
from services.trainer.runs.measure import measure, measure_golden
from services.trainer.runs.plan import Plan
from services.trainer.runs.stages import Report, RunStage, count_steps
from services.trainer.storage import to_json

MAX_PROBES = 16
MAX_ANSWERS = 100


@dataclass(frozen=True)
class _Candidate:
    """The graphs of a fitted model, and the scorer that answers queries with them."""

    graphs: Graphs
    scorer: Cascade


@dataclass(frozen=True)
class _Challenger:
    """What becomes a version.

    Attributes:
        judged: the evaluated model, which was not fitted to the hold-out.
        served: the serving model, which was fitted to all examples.
        choices: the settings that cross-validation chose.
        evaluation: the metrics on the hold-out.
        probes, head_probes: recorded answers of the linear stage and of the transformer stage.
        answers: recorded answers of the whole cascade.

    """

    judged: _Candidate
    served: _Candidate
    choices: Choices
    evaluation: Evaluation
    probes: tuple[pb.Probe, ...]
    head_probes: tuple[pb.Probe, ...]
    answers: tuple[pb.Probe, ...]


def retrain(plan: Plan, report: Report) -> int:
    """Train and register a version, and return its number. Metrics and decision are in the registry.

    Args:
        plan: the files of the run.
        report: called at each stage and during it, with the share that is done.

    Raises:
        BrokenData: a file of the plan cannot be read.
        SnapshotNotFound: the plan names a snapshot that does not exist.
        StageFailed: there is too little data, or the ONNX graphs give other answers than scikit-learn.
        StorageFailed: a file could not be written.

    """
    registry = plan.registry
    report(RunStage.COLLECT, 0.0)
    embeddings = open_embeddings(plan.encoder_dir, registry.embeddings_folder)
    snapshot, summary = repeat(plan, report) if plan.snapshot_id else collect(plan, embeddings, report)
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
    return registry.versions.register(lambda number: _build_files(number, manifest, challenger, embeddings, decision))


def _train(
    snapshot: DatasetSnapshot, embeddings: EmbeddingStore | None, report: Report
) -> tuple[_Candidate, _Candidate, Choices]:
    if not snapshot.train or not snapshot.evaluation_examples:
        to_fit, to_evaluate = len(snapshot.train), len(snapshot.evaluation_examples)
        raise StageFailed(
            f"there are {to_fit} examples to fit and {to_evaluate} to evaluate; add examples until there is one of each"
        )
    report(RunStage.TRAIN, 0.0)
    models = fit(
        snapshot.fitted_examples,
        snapshot.holdout_mask,
        embeddings,
        count_steps(report, RunStage.TRAIN, FITS_WITH_HEAD if embeddings is not None else FITS_WITHOUT_HEAD),
    )
    report(RunStage.EXPORT, 0.0)
    judged = _export(models.evaluation, embeddings)
    served = judged if models.serving is models.evaluation else _export(models.serving, embeddings)
    report(RunStage.PARITY, 0.0)
    for model, candidate in ((models.evaluation, judged), (models.serving, served)):
        _check_parity(model, candidate.scorer, [example.text for example in snapshot.evaluation_examples], embeddings)
    return judged, served, models.serving.choices


def _export(model: FittedModel, embeddings: EmbeddingStore | None) -> _Candidate:
    graphs = export_graphs(model)
    return _Candidate(graphs, Cascade(graphs, model.labels, model.thresholds, embeddings))


def _check_parity(model: FittedModel, scorer: Cascade, texts: Sequence[str], embeddings: EmbeddingStore | None) -> None:
    exported, scores = scorer.ask_linear(texts)
    check_parity(model.linear.predict_proba([normalise(text) for text in texts]), exported, texts)
    if model.head is not None and embeddings is not None:
        features = np.hstack([embeddings.embed(texts).astype(np.float32), scores])
        check_parity(model.head.predict_proba(features), scorer.ask_transformer(texts, scores), texts)


def _evaluate_challenger(
    judged: _Candidate, served: _Candidate, choices: Choices, snapshot: DatasetSnapshot, golden: Sequence[Example]
) -> _Challenger:
    golden_texts = [example.text for example in golden]
    thresholds = lower_thresholds(served.scorer, golden_texts)
    served = replace(served, scorer=served.scorer.with_thresholds(thresholds))
    judged = replace(judged, scorer=judged.scorer.with_thresholds(thresholds))
    evaluation = measure(judged.scorer, snapshot.evaluation_examples, served.graphs.size_bytes)
    evaluation = measure_golden(evaluation, served.scorer, golden)
    withheld = snapshot.feedback_holdout
    probe_texts = (golden_texts or [example.text for example in snapshot.evaluation_examples])[:MAX_PROBES]
    probabilities, scores = served.scorer.ask_linear(probe_texts)
    return _Challenger(
        judged=judged,
        served=served,
        choices=choices,
        evaluation=replace(
            evaluation,
            feedback_examples=len(withheld),
            feedback_accuracy=_feedback_accuracy(judged.scorer, withheld),
        ),
        probes=_record_probes(served.scorer.labels, probe_texts, probabilities),
        head_probes=_record_probes(
            served.scorer.labels, probe_texts, served.scorer.ask_transformer(probe_texts, scores)
        )
        if served.scorer.has_head
        else (),
        answers=_record_answers(
            served.scorer, [*golden_texts, *(example.text for example in snapshot.evaluation_examples)]
        ),
    )


def _feedback_accuracy(scorer: Cascade, holdout: Sequence[Example]) -> float:
    if len(holdout) < MIN_FEEDBACK_EXAMPLES:
        return 0.0
    answers = scorer.answer([example.text for example in holdout])
    return measure_accuracy(holdout, answers.probabilities, scorer.labels)


def _record_answers(scorer: Cascade, texts: Sequence[str]) -> tuple[pb.Probe, ...]:
    """Return what the cascade says of texts spread evenly over those given, abstained ones left out."""
    chosen = texts[:: max(1, len(texts) // MAX_ANSWERS)][:MAX_ANSWERS]
    answers = scorer.answer(chosen)
    probes = _record_probes(scorer.labels, chosen, answers.probabilities)
    return tuple(probe for probe, answered in zip(probes, answers.answered, strict=True) if answered)


def _record_probes(labels: Sequence[str], texts: Sequence[str], probabilities: np.ndarray) -> tuple[pb.Probe, ...]:
    return tuple(
        pb.Probe(text=text, label=labels[int(row.argmax())], confidence=float(row.max()))
        for text, row in zip(texts, probabilities, strict=True)
    )


def _evaluate_champion(
    registry: ModelRegistry, snapshot: DatasetSnapshot, golden: Sequence[Example], embeddings: EmbeddingStore | None
) -> tuple[int, Evaluation | None]:
    alias = registry.alias.read()
    if alias is None:
        return 0, None
    try:
        scorer, size = open_evaluation_model(registry, alias.version, embeddings)
    except ModelVersionNotFound as error:
        raise StageFailed(
            f"the files of the champion, version {alias.version}, cannot be read; roll back or promote another version"
        ) from error
    return alias.version, measure_golden(measure(scorer, snapshot.evaluation_examples, size), scorer, golden)


def _build_files(
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
        **evaluation_files(challenger.judged.graphs),
        MANIFEST_FILE: to_json(manifest).encode(),
        EVALUATION_FILE: to_json(evaluation_report(challenger.evaluation, challenger.choices)).encode(),
        DECISION_FILE: to_json(promotion_decision(decision)).encode(),
    }
