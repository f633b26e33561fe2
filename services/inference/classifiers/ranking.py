"""The values that classifiers return: intents and rankings."""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Intent:
    """A label and its probability, in [0, 1]. The keyword stage has no probabilities, so it gives 0."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Ranking:
    """The answer of one classifier to one query.

    Attributes:
        intents: the labels, best first; empty when the classifier abstains.
        abstained_because: why it abstains; empty when it answers.
        scores: calibrated scores, float32 [n_labels], in the order of the manifest's labels; None without a model.

    """

    intents: tuple[Intent, ...]
    abstained_because: str = ""
    scores: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def score(self) -> float:
        """The best calibrated score; infinity without scores. It is low for a query unlike the training examples."""
        return float(self.scores.max()) if self.scores is not None else math.inf

    @property
    def margin(self) -> float:
        """The best score minus the second: the log-odds of the best label against the second."""
        if self.scores is None or len(self.scores) < 2:
            return math.inf
        next_best, best = np.partition(self.scores, -2)[-2:]
        return float(best - next_best)


def pick_best_intents(probabilities: np.ndarray, labels: tuple[str, ...], top_k: int) -> tuple[Intent, ...]:
    """Return the top_k best labels, best first. `probabilities` is float32 [n_labels], in the order of `labels`."""
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(Intent(labels[index], float(probabilities[index])) for index in best)
