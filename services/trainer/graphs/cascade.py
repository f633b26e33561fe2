"""Runs a version's graphs the way serving does: champion and challenger are judged by this and by nothing else."""

import statistics
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from services.language.session import open_session
from services.language.text import normalise
from services.trainer.fitting.thresholds import Thresholds
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.export import HEAD_INPUT_NAME, INPUT_NAME, OUTPUT_NAME, SCORES_NAME, Graphs

BATCH_QUERIES = 256


@dataclass(frozen=True)
class Answers:
    """What the cascade says of some queries.

    Attributes:
        probabilities: float32 [n, n_labels], of the stage that answers.
        escalated: bool [n], whether that is the transformer stage.
        answered: bool [n], whether that stage is above its abstain threshold.

    """

    probabilities: np.ndarray
    escalated: np.ndarray
    answered: np.ndarray

    @property
    def confidences(self) -> np.ndarray:
        """The best probability of each row, [n]."""
        return np.asarray(self.probabilities.max(axis=1, initial=0.0))


class CascadeScorer:
    """A version's graphs, the labels of their columns, and its thresholds.

    Without embeddings, or without a head, the linear stage answers alone, as in serving.
    """

    def __init__(
        self, graphs: Graphs, labels: Sequence[str], thresholds: Thresholds, embeddings: EmbeddingStore | None
    ) -> None:
        self.labels = tuple(labels)
        self.thresholds = thresholds
        self._linear = open_session(graphs.linear)
        self._embeddings = embeddings if graphs.head is not None else None
        self._head = open_session(graphs.head) if graphs.head is not None and embeddings is not None else None

    def with_thresholds(self, thresholds: Thresholds) -> Self:
        """Return a scorer of the same graphs with other thresholds."""
        other = copy(self)
        other.thresholds = thresholds
        return other

    def without_head(self) -> Self:
        """Return a scorer of the same linear graph, answering alone."""
        other = copy(self)
        other._head = None
        return other

    def head_call(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return what runs the head on float32 [n, columns + n_labels]."""
        head = self._head
        assert head is not None  # noqa: S101 - callers have asked
        return lambda features: np.asarray(head.run([OUTPUT_NAME], {HEAD_INPUT_NAME: features})[0])

    @property
    def has_head(self) -> bool:
        """Whether the transformer stage can be asked."""
        return self._head is not None

    def linear(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities and scores of the linear stage, float32 [n, n_labels], for texts not normalised yet."""
        parts = [
            self._run_linear(texts[start : start + BATCH_QUERIES]) for start in range(0, len(texts), BATCH_QUERIES)
        ]
        empty = np.zeros((0, len(self.labels)), dtype=np.float32)
        probabilities, scores = zip(*parts, strict=True) if parts else ((empty,), (empty,))
        return np.concatenate(probabilities), np.concatenate(scores)

    def head(self, texts: Sequence[str], scores: np.ndarray) -> np.ndarray:
        """Return probabilities of the transformer stage, float32 [n, n_labels], given the linear stage's scores."""
        if self._head is None or self._embeddings is None or not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        return self._run_head(self._embeddings.embed(texts).astype(np.float32), scores)

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the cascade's answers to texts that are not normalised yet."""
        probabilities, scores = self.linear(texts)
        if self._head is None:
            confident = probabilities.max(axis=1, initial=0.0) >= self.thresholds.alone
            return Answers(probabilities, np.zeros(len(texts), dtype=bool), confident)
        escalated = self.thresholds.escalates(scores)
        rows = np.flatnonzero(escalated).tolist()
        probabilities[rows] = self.head([texts[row] for row in rows], scores[rows])
        confident = probabilities.max(axis=1, initial=0.0) >= self.thresholds.transformer
        return Answers(probabilities, escalated, confident | ~escalated)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, n_labels] of the stage that answers."""
        return self.answers(texts).probabilities

    def median_linear_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query in the linear stage, normalisation included, in microseconds."""
        return _median_micros(lambda text: self._run_linear([text]), texts)

    def median_transformer_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query in the transformer stage, after the linear one; 0 without it."""
        if self._head is None or self._embeddings is None:
            return 0.0
        encoder = self._embeddings.encoder

        def ask(text: str) -> None:
            _, scores = self._run_linear([text])
            self._run_head(encoder.embed_one(text), scores)

        return _median_micros(ask, texts)

    def _run_linear(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        column = np.array([[normalise(text)] for text in texts], dtype=object)
        probabilities, scores = self._linear.run([OUTPUT_NAME, SCORES_NAME], {INPUT_NAME: column})
        return np.asarray(probabilities), np.asarray(scores)

    def _run_head(self, embeddings: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return self.head_call()(np.hstack([embeddings, scores]))


def lowered_for(scorer: CascadeScorer, texts: Sequence[str]) -> Thresholds:
    """Return the scorer's thresholds, lowered until none of some texts is abstained from."""
    if not texts:
        return scorer.thresholds
    probabilities, _ = scorer.linear(texts)
    alone = min(scorer.thresholds.alone, float(probabilities.max(axis=1).min()))
    answers = scorer.answers(texts)
    confidences = answers.confidences[answers.escalated]
    return replace(
        scorer.thresholds,
        alone=alone,
        transformer=min(scorer.thresholds.transformer, float(confidences.min(initial=1.0))),
    )


def _median_micros(ask: Callable[[str], object], texts: Sequence[str]) -> float:
    times = []
    for text in texts:
        began = time.perf_counter()
        ask(text)
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times) if times else 0.0
