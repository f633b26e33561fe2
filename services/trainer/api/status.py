"""Builds the answer of GetRetrainStatus: the champion, the feedback, whether retraining is due, and drift."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.runs.store import RunStore
from services.trainer.schedule.drift import Drift
from services.trainer.schedule.due import DueCheck, count_days, judge


def read_status(check: DueCheck) -> pb.GetRetrainStatusResponse:
    """Return the status at this moment. It blocks: call it off the event loop."""
    facts = check.read_facts()
    verdict = judge(facts, check.rules)
    return pb.GetRetrainStatusResponse(
        last_retrain=_last_retrain(check.runs),
        next_retrain_recommended=verdict.sentence,
        logged_data_status=_describe_data(check.feedback.newest(), facts.samples),
        model_status=_describe_champion(facts.champion),
        recommendations=verdict.recommendations,
        running=check.runs.running(),
        due=verdict.due,
        drift=_describe_drift(facts.drift),
    )


def _last_retrain(runs: RunStore) -> Timestamp | None:
    promoted = runs.last_promoted()
    return promoted.finished_at if promoted is not None else None


def _describe_data(at: datetime | None, samples: int) -> pb.LoggedDataStatus:
    if at is None:
        return pb.LoggedDataStatus(sample_count=samples)
    newest = Timestamp()
    newest.FromDatetime(at)
    return pb.LoggedDataStatus(last_updated=newest, days_old=count_days(newest), sample_count=samples)


def _describe_champion(manifest: manifest_pb2.Manifest | None) -> pb.ModelFileStatus:
    if manifest is None:
        return pb.ModelFileStatus()
    return pb.ModelFileStatus(
        last_updated=manifest.created_at,
        days_old=count_days(manifest.created_at),
        exists=True,
        version=manifest.version,
    )


def _describe_drift(drift: Drift) -> pb.DriftStatus:
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
