"""Puts together what operators ask first: how old is the champion, what came in since, is a retrain due."""

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.events.v1.events_pb2 import FeedbackRecord
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.language.text import normalise
from services.trainer.errors import ModelVersionNotFound
from services.trainer.feedback.store import FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.store import RunStore
from services.trainer.schedule.advice import advise
from services.trainer.schedule.drift import Drift
from services.trainer.schedule.drift_monitor import DriftMonitor


class RetrainingStatus:
    """Reads registry, feedback and runs; changes nothing."""

    def __init__(
        self,
        registry: ModelRegistry,
        feedback: FeedbackStore,
        runs: RunStore,
        samples_needed: int,
        days_allowed: int,
        drift: DriftMonitor,
    ) -> None:
        self._registry = registry
        self._feedback = feedback
        self._runs = runs
        self._samples_needed = samples_needed
        self._days_allowed = days_allowed
        self._drift = drift

    def now(self, running: pb.TrainingRun | None) -> pb.GetRetrainStatusResponse:
        """Return the status at this moment."""
        manifest = self._champion_manifest()
        records = self._feedback.records()
        seen = manifest.snapshot.feedback_records if manifest else 0
        samples = len({normalise(record.text) for record in records[seen:] if not record.deleted})
        data_age = days_since(manifest.snapshot.collected_at) if manifest else 0
        advice = advise(
            has_champion=manifest is not None,
            samples=samples,
            days=data_age,
            samples_needed=self._samples_needed,
            days_allowed=self._days_allowed,
        )
        return pb.GetRetrainStatusResponse(
            last_retrain=self._last_retrain(),
            next_retrain_recommended=advice.next_retrain,
            logged_data_status=logged_data_status(records, samples),
            model_status=model_file_status(manifest),
            recommendations=advice.recommendations,
            running=running,
            due=advice.due,
            drift=drift_status(self._drift.now()),
        )

    def _champion_manifest(self) -> manifest_pb2.Manifest | None:
        alias = self._registry.champion()
        try:
            return self._registry.manifest(alias.version) if alias else None
        except ModelVersionNotFound:
            return None

    def _last_retrain(self) -> Timestamp | None:
        promoted = (
            run.finished_at
            for run in self._runs.newest_first()
            if run.state == pb.RUN_STATE_SUCCEEDED and not run.validate_only
        )
        return next(promoted, None)


def drift_status(drift: Drift) -> pb.DriftStatus:
    """Translate how far queries have drifted."""
    reference, recent = drift.reference, drift.recent
    return pb.DriftStatus(
        measured=drift.measured,
        drifted=bool(drift.reasons),
        reasons=drift.reasons,
        label_index=drift.label_index,
        confidence_index=drift.confidence_index,
        label_chance=drift.label_chance,
        confidence_chance=drift.confidence_chance,
        reference_queries=reference.queries,
        recent_queries=recent.queries,
        unknown=recent.share(recent.unknown),
        unknown_at_promotion=reference.share(reference.unknown),
        escalated=recent.share(recent.escalated),
        escalated_at_promotion=reference.share(reference.escalated),
        moved=[pb.MovedLabel(label=label, change=change) for label, change in drift.moved],
    )


def logged_data_status(records: Sequence[FeedbackRecord], samples: int) -> pb.LoggedDataStatus:
    """Describe the feedback gathered so far."""
    if not records:
        return pb.LoggedDataStatus(sample_count=samples)
    newest = records[-1].at
    return pb.LoggedDataStatus(last_updated=newest, days_old=days_since(newest), sample_count=samples)


def model_file_status(manifest: manifest_pb2.Manifest | None) -> pb.ModelFileStatus:
    """Describe the champion."""
    if manifest is None:
        return pb.ModelFileStatus()
    return pb.ModelFileStatus(
        last_updated=manifest.created_at,
        days_old=days_since(manifest.created_at),
        exists=True,
        version=manifest.version,
    )


def days_since(moment: Timestamp) -> int:
    """Return whole days, never negative even if the clock was set back."""
    return max(0, (datetime.now(UTC) - moment.ToDatetime(UTC)).days)
