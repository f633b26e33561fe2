"""A query that was answered, as far as the trainer needs to know it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShadowAnswer:
    """What a challenger would have said."""

    version: int
    label: str
    confidence: float
    micros: int
    error: str


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """One line of the query log; `at` is in seconds since the epoch, `second` the confidence of the second label."""

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
