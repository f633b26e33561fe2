"""The values that classifiers answer with."""

from dataclasses import dataclass

UNKNOWN_LABEL = "unknown"


@dataclass(frozen=True)
class Intent:
    """A label and its probability in [0, 1]; the keyword stage knows no probability and says 0."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Ranking:
    """What one classifier says of one query: labels, best first, or none and the reason for abstaining."""

    intents: tuple[Intent, ...]
    abstained_because: str = ""
