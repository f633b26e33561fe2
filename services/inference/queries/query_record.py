"""An answered query, its record (a moodfood.events.v1.QueryRecord), and its line of JSON in the query log."""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import QueryRecord

from services.inference.classifiers.cascade import Answer
from services.inference.models.servable import Servable

_MAX_MICROS = 2**31 - 1


@dataclass(frozen=True)
class AnsweredQuery:
    """A query with its answer, the servable that answered, and the time it took.

    `at` is when it was answered, in seconds since 1970. `seconds` is without the network.
    """

    query_id: str
    text: str
    at: float
    answer: Answer
    servable: Servable
    seconds: float


@dataclass(frozen=True)
class ShadowAnswer:
    """The answer of the version whose answer the caller did not get.

    Attributes:
        experiment_id: the experiment.
        arm: the arm that did answer the caller, champion or challenger.
        version: the version that gave the shadow answer.
        label: its best label; empty when it failed.
        confidence: its confidence in that label, in [0, 1].
        seconds: the time that it took.
        error: name of the exception that it failed with; empty when it answered.

    """

    experiment_id: str
    arm: str
    version: int
    label: str = ""
    confidence: float = 0.0
    seconds: float = 0.0
    error: str = ""


def build_query_record(answered: AnsweredQuery, shadow: ShadowAnswer | None = None) -> QueryRecord:
    """Return the record of a query, with its shadow answer if there is one."""
    record = QueryRecord(
        event="query",
        query_id=answered.query_id,
        text=answered.text,
        stage=answered.answer.kind.value,
        model_version=answered.servable.version,
        latency_micros=_to_micros(answered.seconds),
    )
    record.at.FromDatetime(datetime.fromtimestamp(answered.at, UTC))
    for intent in answered.answer.intents:
        record.labels.add(label=intent.label, confidence=round(intent.confidence, 4))
    if shadow is not None:
        record.experiment_id, record.arm = shadow.experiment_id, shadow.arm
        record.shadow.model_version = shadow.version
        record.shadow.label, record.shadow.confidence = shadow.label, round(shadow.confidence, 4)
        record.shadow.latency_micros, record.shadow.error = _to_micros(shadow.seconds), shadow.error
    return record


def render_line(record: QueryRecord) -> bytes:
    """Return a record as one line of JSON, with its end."""
    text = json_format.MessageToJson(
        record, preserving_proto_field_name=True, indent=None, always_print_fields_with_no_presence=True
    )
    return f"{text}\n".encode()


def _to_micros(seconds: float) -> int:
    """Return a time in microseconds; what the field cannot hold becomes its largest number."""
    return min(round(seconds * 1e6), _MAX_MICROS)
