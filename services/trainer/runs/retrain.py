"""The stages of a run: collect, clean, snapshot, train, export, parity, evaluate, decide, register.

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
from services.trainer.dataset.examples import FROM_PEOPLE, Example
from services.trainer.dataset.snapshot import DatasetSnapshot
from services.trainer.dataset.snapshot_retention import delete_snapshots_with
from services.trainer.dataset.vectors import forget_vectors
from services.trainer.dataset.words import text_key
from services.trainer.errors import ModelVersionNotFound, StageFailed
from services.trainer.evaluation.gate import MIN_FEEDBACK_EXAMPLES, Decision, decide
from services.trainer.evaluation.metrics import Evaluation, measure_accuracy
from services.trainer.evaluation.reports import evaluation_report, promotion_decision
from services.trainer.feedback.embedding_erasure import mark_clean
from services.trainer.feedback.run_feedback import RunFeedback
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
class _Exported:
    """The graphs of a fitted model, and the cascade that answers with them."""

    graphs: Graphs
    cascade: Cascade


@dataclass(frozen=True)
class _Challenger:
    """What may become a version: an evaluation model, fitted without the held-out examples, and a serving model."""

    evaluation_model: _Exported
    serving_model: _Exported
    choices: Choices
    evaluation: Evaluation
    probes: tuple[pb.Probe, ...]
    head_probes: tuple[pb.Probe, ...]
    answers: tuple[pb.Probe, ...]


def retrain(plan: Plan, report: Report) -> int:
    """Run all stages and return the number of the registered version; the registry holds what was measured.

    Raises:
        BrokenData: a file of the plan cannot be read.
        SnapshotNotFound: the plan names a snapshot that does not exist.
        StageFailed: there is too little data, the ONNX graphs give other answers than scikit-learn, or something that
            the run learned from was erased while it went on.
        StorageFailed: a file could not be written.

    """
    registry = plan.registry
    report(RunStage.COLLECT, 0.0)
    feedback = RunFeedback(plan.database) if plan.with_feedback else None
    embeddings = open_embeddings(plan.encoder_dir, registry.embeddings_folder)
    snapshot, summary = repeat(plan, report) if plan.snapshot_id else collect(plan, feedback, embeddings, report)
    _refuse_forgotten(snapshot, feedback, registry)
    evaluation_model, serving_model, choices = _train(snapshot, embeddings, report)
    report(RunStage.EVALUATE, 0.0)
    challenger = _evaluate_challenger(evaluation_model, serving_model, choices, snapshot)
    champion_version, champion = _evaluate_champion(registry, snapshot, embeddings)
    report(RunStage.DECIDE, 0.0)
    decision = decide(challenger.evaluation, champion, champion_version)
    report(RunStage.REGISTER, 0.0)
    if embeddings is not None:
        if feedback is not None:
            mark_clean(registry.embeddings_folder, feedback.erased_until)
        embeddings.save()
    # The last look comes after the last write of what people said: what is erased later is on disk, where the erasure
    # finds it.
    _refuse_forgotten(snapshot, feedback, registry)
    manifest = pb.Manifest(model=registry.model, snapshot=summary, training_run=plan.run_id)
    return registry.versions.register(lambda number: _build_files(number, manifest, challenger, embeddings, decision))


def _refuse_forgotten(snapshot: DatasetSnapshot, feedback: RunFeedback | None, registry: ModelRegistry) -> None:
    """Raise StageFailed if words of the snapshot were erased since the run began; delete what the run wrote of them."""
    erased = feedback.erased_text_keys() if feedback is not None else set()
    if not erased:
        return
    forget_vectors(registry.embeddings_folder, erased)
    said = {example.text for example in snapshot.fitted_examples if example.source in FROM_PEOPLE}
    forgotten = {text for text in said if text_key(text) in erased}
    if forgotten:
        delete_snapshots_with(registry.repository, forgotten)
        raise StageFailed(
            f"{len(forgotten)} of the texts that the run learned from were deleted while it was going on; "
            "start it again, and it learns what is left"
        )


def _train(
    snapshot: DatasetSnapshot, embeddings: EmbeddingStore | None, report: Report
) -> tuple[_Exported, _Exported, Choices]:
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
    evaluation_model = _export(models.evaluation, embeddings)
    is_one_model = models.serving is models.evaluation
    serving_model = evaluation_model if is_one_model else _export(models.serving, embeddings)
    report(RunStage.PARITY, 0.0)
    texts = [example.text for example in snapshot.evaluation_examples]
    for fitted, exported in ((models.evaluation, evaluation_model), (models.serving, serving_model)):
        _check_parity(fitted, exported.cascade, texts, embeddings)
    return evaluation_model, serving_model, models.serving.choices


def _export(model: FittedModel, embeddings: EmbeddingStore | None) -> _Exported:
    graphs = export_graphs(model)
    return _Exported(graphs, Cascade(graphs, model.labels, model.thresholds, embeddings))


def _check_parity(
    model: FittedModel, cascade: Cascade, texts: Sequence[str], embeddings: EmbeddingStore | None
) -> None:
    exported, scores = cascade.ask_linear(texts)
    check_parity(model.linear.predict_proba([normalise(text) for text in texts]), exported, texts)
    if model.head is not None and embeddings is not None:
        features = np.hstack([embeddings.embed(texts).astype(np.float32), scores])
        check_parity(model.head.predict_proba(features), cascade.ask_transformer(texts, scores), texts)


def _evaluate_challenger(
    evaluation_model: _Exported, serving_model: _Exported, choices: Choices, snapshot: DatasetSnapshot
) -> _Challenger:
    golden_texts = [example.text for example in snapshot.golden]
    evaluation_texts = [example.text for example in snapshot.evaluation_examples]
    thresholds = lower_thresholds(serving_model.cascade, golden_texts)
    evaluation_cascade = evaluation_model.cascade.with_thresholds(thresholds)
    serving_cascade = serving_model.cascade.with_thresholds(thresholds)
    evaluation = measure(evaluation_cascade, snapshot.evaluation_examples, serving_model.graphs.size_bytes)
    evaluation = measure_golden(evaluation, serving_cascade, snapshot.golden)
    withheld = snapshot.feedback_holdout
    probe_texts = (golden_texts or evaluation_texts)[:MAX_PROBES]
    probabilities, scores = serving_cascade.ask_linear(probe_texts)
    return _Challenger(
        evaluation_model=replace(evaluation_model, cascade=evaluation_cascade),
        serving_model=replace(serving_model, cascade=serving_cascade),
        choices=choices,
        evaluation=replace(
            evaluation,
            feedback_examples=len(withheld),
            feedback_accuracy=_feedback_accuracy(evaluation_cascade, withheld),
        ),
        probes=_probes(serving_cascade.labels, probe_texts, probabilities),
        head_probes=_probes(serving_cascade.labels, probe_texts, serving_cascade.ask_transformer(probe_texts, scores))
        if serving_cascade.has_head
        else (),
        answers=_answers(serving_cascade, [*golden_texts, *evaluation_texts]),
    )


def _feedback_accuracy(cascade: Cascade, holdout: Sequence[Example]) -> float:
    if len(holdout) < MIN_FEEDBACK_EXAMPLES:
        return 0.0
    answers = cascade.answer([example.text for example in holdout])
    return measure_accuracy(holdout, answers.probabilities, cascade.labels)


def _answers(cascade: Cascade, texts: Sequence[str]) -> tuple[pb.Probe, ...]:
    """Return what the cascade says of texts spread evenly over those given, abstained ones left out."""
    chosen = texts[:: max(1, len(texts) // MAX_ANSWERS)][:MAX_ANSWERS]
    answers = cascade.answer(chosen)
    probes = _probes(cascade.labels, chosen, answers.probabilities)
    return tuple(probe for probe, answered in zip(probes, answers.answered, strict=True) if answered)


def _probes(labels: Sequence[str], texts: Sequence[str], probabilities: np.ndarray) -> tuple[pb.Probe, ...]:
    return tuple(
        pb.Probe(text=text, label=labels[int(row.argmax())], confidence=float(row.max()))
        for text, row in zip(texts, probabilities, strict=True)
    )


def _evaluate_champion(
    registry: ModelRegistry, snapshot: DatasetSnapshot, embeddings: EmbeddingStore | None
) -> tuple[int, Evaluation | None]:
    alias = registry.alias.read()
    if alias is None:
        return 0, None
    try:
        cascade, size = open_evaluation_model(registry, alias.version, embeddings)
    except ModelVersionNotFound as error:
        raise StageFailed(
            f"the files of the champion, version {alias.version}, cannot be read; roll back or promote another version"
        ) from error
    evaluation = measure(cascade, snapshot.evaluation_examples, size)
    return alias.version, measure_golden(evaluation, cascade, snapshot.golden)


def _build_files(
    version: int,
    common: pb.Manifest,
    challenger: _Challenger,
    embeddings: EmbeddingStore | None,
    decision: Decision,
) -> dict[str, bytes]:
    serving, encoder = challenger.serving_model, embeddings.encoder if embeddings is not None else None
    manifest = pb.Manifest()
    manifest.CopyFrom(common)
    manifest.version = version
    manifest.created_at.FromDatetime(datetime.now(UTC))
    describe(
        manifest,
        serving.graphs,
        serving.cascade.labels,
        serving.cascade.thresholds,
        encoder.name if encoder else "",
        encoder.columns if encoder else 0,
    )
    manifest.probes.extend(challenger.probes)
    manifest.answers.extend(challenger.answers)
    if serving.graphs.head is not None:
        manifest.head.probes.extend(challenger.head_probes)
    return {
        **serving_files(serving.graphs),
        **evaluation_files(challenger.evaluation_model.graphs),
        MANIFEST_FILE: to_json(manifest).encode(),
        EVALUATION_FILE: to_json(evaluation_report(challenger.evaluation, challenger.choices)).encode(),
        DECISION_FILE: to_json(promotion_decision(decision)).encode(),
    }
