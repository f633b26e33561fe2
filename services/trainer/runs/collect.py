"""Gathers what a run learns from: collect, clean, snapshot; or the snapshot of an earlier run again."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.dataset.cleaning import clean
from services.trainer.dataset.examples import FEEDBACK, FROM_PEOPLE, Example
from services.trainer.dataset.files import read_examples
from services.trainer.dataset.snapshot import DatasetSnapshot, read_snapshot, split, write_snapshot
from services.trainer.dataset.taxonomy import load_taxonomy_labels
from services.trainer.errors import ModelVersionNotFound
from services.trainer.feedback.store import FeedbackStore
from services.trainer.feedback.suspects import write_suspects
from services.trainer.fitting.label_noise import find_label_noise, worth_leaving_out
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.runs.plan import Plan
from services.trainer.runs.stages import Report, RunStage

# Embedding takes most of the cleaning stage when nothing was embedded before.
EMBED_AT_ONCE = 256
EMBEDDING_SHARE = 0.8


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


def repeated(plan: Plan, report: Report) -> tuple[DatasetSnapshot, pb.Snapshot]:
    """Return an earlier snapshot, which was collected and cleaned then.

    Raises:
        SnapshotNotFound: there is none, or it was damaged.

    """
    report(RunStage.CLEAN, 0.0)
    report(RunStage.SNAPSHOT, 0.0)
    snapshot = read_snapshot(plan.snapshot_id, plan.registry.snapshots_folder)
    for version in plan.registry.versions():
        with contextlib.suppress(ModelVersionNotFound):
            earlier = plan.registry.manifest(version).snapshot
            if earlier.id == snapshot.id:
                return snapshot, earlier
    from_people = sum(example.source in FROM_PEOPLE for example in snapshot.fitted_examples)
    return snapshot, _summary(snapshot, {}, from_people, datetime.now(UTC))


def gathered(plan: Plan, embeddings: EmbeddingStore | None, report: Report) -> tuple[DatasetSnapshot, pb.Snapshot]:
    """Collect, clean and snapshot what there is to learn now.

    Raises:
        BrokenData: a file of the plan cannot be read.
        StorageFailed: the disk refused.

    """
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
        train_examples=len(snapshot.fitted_examples),
        held_out_examples=len(snapshot.evaluation_examples),
        feedback_records=feedback_records,
        dropped=dropped,
    )
    summary.collected_at.FromDatetime(at)
    return summary
