"""A query and its answer, as the trainer keeps it."""

import math
from dataclasses import dataclass

from moodfood.events.v1 import events_pb2 as pb

MAX_ID_CHARS = 128
# The end of the year 9999.
_LAST_SECOND = 253_402_300_799


@dataclass(frozen=True, slots=True)
class ShadowAnswer:
    """The shadow answer: what the arm that did not answer the caller would have said. `micros` is its time."""

    version: int
    label: str
    confidence: float
    micros: int
    error: str


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """A query and its answer.

    `at` is in seconds since 1970, 0 when it is not known; `second` is the confidence of the second label; `micros` is
    the time of the answer in microseconds.
    """

    query_id: str
    text: str
    at: float
    label: str
    confidence: float
    second: float
    stage: str
    version: int
    micros: int
    experiment_id: str = ""
    arm: str = ""
    shadow: ShadowAnswer | None = None


def read_record(record: pb.QueryRecord) -> AnsweredQuery:
    """Return the query of a record. What a database cannot hold is made to fit, so that no record is in the way."""
    first, second = ([*record.labels, pb.RankedLabel(), pb.RankedLabel()])[:2]
    return AnsweredQuery(
        query_id=_clean(record.query_id),
        text=_clean(record.text),
        at=record.at.seconds + record.at.nanos / 1e9 if 0 < record.at.seconds <= _LAST_SECOND else 0.0,
        label=_clean(first.label),
        confidence=_finite(first.confidence),
        second=_finite(second.confidence),
        stage=_clean(record.stage)[:32],
        version=record.model_version,
        micros=record.latency_micros,
        experiment_id=_clean(record.experiment_id)[:64],
        arm=_clean(record.arm)[:16],
        shadow=_read_shadow(record.shadow) if record.HasField("shadow") else None,
    )


def is_id(query_id: str) -> bool:
    """Say whether this can be the id of a query in the database."""
    return 0 < len(query_id) <= MAX_ID_CHARS and "\0" not in query_id


def _read_shadow(shadow: pb.ShadowAnswer) -> ShadowAnswer:
    return ShadowAnswer(
        shadow.model_version,
        _clean(shadow.label),
        _finite(shadow.confidence),
        shadow.latency_micros,
        _clean(shadow.error),
    )


def _clean(text: str) -> str:
    # PostgreSQL stores no NUL characters.
    return text.replace("\0", "\ufffd")


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0
