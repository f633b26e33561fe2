"""The first three stages of a run: collect, clean, snapshot. A run can also repeat an earlier snapshot."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.dataset.cleaning import clean
from services.trainer.dataset.examples import FROM_PEOPLE, Example
from services.trainer.dataset.files import read_examples
from services.trainer.dataset.snapshot import DatasetSnapshot, read_snapshot, split, write_snapshot
from services.trainer.dataset.taxonomy import load_taxonomy_labels
from services.trainer.errors import ModelVersionNotFound
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import replace_suspects
from services.trainer.feedback.run_feedback import RunFeedback
from services.trainer.fitting.label_noise import Suspicion, find_label_noise, select_to_leave_out
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.runs.plan import Plan
from services.trainer.runs.stages import Report, RunStage

# Without stored embeddings, most of the time of the clean stage goes to embedding.
EMBED_AT_ONCE = 256
EMBEDDING_SHARE = 0.8


@dataclass(frozen=True)
class _Collected:
    seeds: Sequence[Example]
    held_out: Sequence[Example]
    golden: Sequence[Example]
    labels: tuple[str, ...] | None
    malformed: int
    at: datetime


def repeat(plan: Plan, report: Report) -> tuple[DatasetSnapshot, pb.Snapshot]:
    """Return the snapshot that the plan names, and its summary.

    Raises:
        SnapshotNotFound: there is no such snapshot, or its file is damaged.

    """
    report(RunStage.CLEAN, 0.0)
    report(RunStage.SNAPSHOT, 0.0)
    snapshot = read_snapshot(plan.snapshot_id, plan.registry.repository)
    for version in plan.registry.versions.numbers():
        with contextlib.suppress(ModelVersionNotFound):
            earlier = plan.registry.versions.manifest(version).snapshot
            if earlier.id == snapshot.id:
                return snapshot, earlier
    from_people = sum(example.source in FROM_PEOPLE for example in snapshot.fitted_examples)
    return snapshot, _summarise(snapshot, {}, from_people, datetime.now(UTC))


def collect(
    plan: Plan, feedback: RunFeedback | None, embeddings: EmbeddingStore | None, report: Report
) -> tuple[DatasetSnapshot, pb.Snapshot]:
    """Collect the examples that exist now, clean them, and write and return the snapshot and its summary.

    Args:
        plan: the files of the run.
        feedback: what people said; it is read newest first and up to a bound. None without feedback.
        embeddings: embeds the examples; None without an encoder.
        report: called at each stage and during it, with the share that is done.

    Raises:
        BrokenData: a file of the plan cannot be read.
        StorageFailed: a file could not be written.

    """
    collected = _read_files(plan)
    # Look first: feedback that arrives while the rest is read then counts as new for the next run.
    watermark = feedback.watermark() if feedback else 0
    report(RunStage.CLEAN, 0.0)
    cleaned = clean(
        collected.seeds,
        feedback.newest_first() if feedback else (),
        (*collected.held_out, *collected.golden),
        collected.labels,
    )
    if embeddings is not None:
        _embed(embeddings, [example.text for example in cleaned.examples], report)
    suspected = find_label_noise(cleaned.examples, embeddings)
    suspects = _list_suspects(suspected, cleaned.contradictory)
    replace_suspects(plan.database, suspects, feedback.erased_until if feedback else None)
    noise = select_to_leave_out(suspected, cleaned.examples)
    report(RunStage.SNAPSHOT, 0.0)
    doubted = {suspicion.example for suspicion in noise}
    snapshot = split(
        [example for example in cleaned.examples if example not in doubted],
        _select_usable(collected.held_out, collected.labels),
        [example for example in _select_usable(collected.golden, collected.labels) if example.labels],
    )
    write_snapshot(snapshot, plan.registry.repository)
    dropped = dict(cleaned.dropped)
    for reason, count in (("malformed_line", collected.malformed), ("suspected_label_noise", len(noise))):
        if count:
            dropped[reason] = count
    return snapshot, _summarise(snapshot, dropped, watermark, collected.at)


def _list_suspects(suspected: Sequence[Suspicion], contradictory: Sequence[Example]) -> list[ReviewItem]:
    """Return the examples with doubtful labels, as items for the review queue."""
    noise = [
        ReviewItem(
            suspicion.example.text,
            Reason.SUSPECTED_NOISE,
            suspicion.confidence,
            suspicion.believed,
            suspicion.confidence,
            suspicion.example.labels,
        )
        for suspicion in suspected
    ]
    return [
        *noise,
        *(ReviewItem(example.text, Reason.DISAGREEING, 1.0, labels=example.labels) for example in contradictory),
    ]


def _embed(embeddings: EmbeddingStore, texts: Sequence[str], report: Report) -> None:
    """Embed the texts that have no stored embedding yet, and report the progress."""
    for start in range(0, len(texts), EMBED_AT_ONCE):
        embeddings.embed(texts[start : start + EMBED_AT_ONCE])
        report(RunStage.CLEAN, EMBEDDING_SHARE * min(1.0, (start + EMBED_AT_ONCE) / len(texts)))


def _read_files(plan: Plan) -> _Collected:
    seeds, malformed = read_examples(plan.seed_files)
    held_out, _ = read_examples(_list_present(plan.held_out_file))
    golden, _ = read_examples(_list_present(plan.golden_file))
    taxonomy = load_taxonomy_labels(Path(plan.taxonomy_file)) if plan.taxonomy_file else None
    return _Collected(
        seeds=[*(taxonomy.descriptor_examples if taxonomy else ()), *seeds],
        held_out=held_out,
        golden=golden,
        labels=taxonomy.names if taxonomy else None,
        malformed=len(malformed),
        at=datetime.now(UTC),
    )


def _list_present(name: str) -> list[str]:
    return [name] if name and Path(name).is_file() else []


def _select_usable(examples: Sequence[Example], labels: tuple[str, ...] | None) -> list[Example]:
    """Return the examples whose labels all exist. Examples of another taxonomy cannot evaluate this model."""
    return [example for example in examples if labels is None or set(example.labels) <= set(labels)]


def _summarise(
    snapshot: DatasetSnapshot, dropped: Mapping[str, int], feedback_records: int, at: datetime
) -> pb.Snapshot:
    summary = pb.Snapshot(
        id=snapshot.id,
        train_examples=len(snapshot.fitted_examples),
        held_out_examples=len(snapshot.evaluation_examples),
        feedback_records=feedback_records,
        dropped=dropped,
    )
    summary.collected_at.FromDatetime(at)
    return summary
