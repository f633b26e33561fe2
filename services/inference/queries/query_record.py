"""The form of one answered query in the query log: a moodfood.events.v1.QueryRecord as one line of JSON."""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import QueryRecord

from services.inference.classifiers.cascade import Outcome


@dataclass(frozen=True)
class OtherSide:
    """What the side of an experiment said that the caller did not hear; `arm` is the side that the caller heard."""

    experiment_id: str
    arm: str
    version: int
    label: str = ""
    confidence: float = 0.0
    seconds: float = 0.0
    error: str = ""


def query_record_line(
    query_id: str,
    at: float,
    text: str,
    outcome: Outcome,
    model_version: int,
    seconds: float,
    other: OtherSide | None = None,
) -> str:
    """Return the record as JSON without a line end; `at` is in seconds since the epoch."""
    record = QueryRecord(
        event="query",
        query_id=query_id,
        text=text,
        stage=outcome.kind.value,
        model_version=model_version,
        latency_micros=round(seconds * 1e6),
    )
    record.at.FromDatetime(datetime.fromtimestamp(at, UTC))
    for intent in outcome.intents:
        record.labels.add(label=intent.label, confidence=round(intent.confidence, 4))
    if other is not None:
        record.experiment_id, record.arm = other.experiment_id, other.arm
        record.shadow.model_version = other.version
        record.shadow.label, record.shadow.confidence = other.label, round(other.confidence, 4)
        record.shadow.latency_micros, record.shadow.error = round(other.seconds * 1e6), other.error
    return json_format.MessageToJson(
        record, preserving_proto_field_name=True, indent=None, always_print_fields_with_no_presence=True
    )
