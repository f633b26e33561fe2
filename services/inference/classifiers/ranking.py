"""The values that classifiers answer with."""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Intent:
    """A label and its probability in [0, 1]; the keyword stage knows no probability and says 0."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Ranking:
    """What one classifier says of one query: labels, best first, or none and the reason for abstaining.

    Attributes:
        scores: of every label in the model's order, float32 [n_labels], for a later stage; None if there are none.

    """

    intents: tuple[Intent, ...]
    abstained_because: str = ""
    scores: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def score(self) -> float:
        """The best score: low for a query unlike all that was learned."""
        return float(self.scores.max()) if self.scores is not None else math.inf

    @property
    def margin(self) -> float:
        """By how much the best score exceeds the next: the logarithm of the odds of the two labels."""
        if self.scores is None or len(self.scores) < 2:
            return math.inf
        next_best, best = np.partition(self.scores, -2)[-2:]
        return float(best - next_best)


def pick_best_intents(probabilities: np.ndarray, labels: tuple[str, ...], top_k: int) -> tuple[Intent, ...]:
    """Return the best labels of float32 [n_labels], best first."""
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(Intent(labels[index], float(probabilities[index])) for index in best)
