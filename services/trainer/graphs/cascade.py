"""Runs a version's graphs as serving does: first the linear stage, then the transformer stage for what is escalated."""

import statistics
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import numpy as np

from services.language.session import open_session
from services.language.text import normalise
from services.trainer.fitting.thresholds import Answers, Thresholds
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.export import HEAD_INPUT_NAME, INPUT_NAME, OUTPUT_NAME, SCORES_NAME, Graphs

BATCH_QUERIES = 256


class Cascade:
    """A version's graphs, the labels of their columns, and its thresholds. Texts are given as they were said.

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
        """Return a cascade of the same graphs with other thresholds."""
        other = copy(self)
        other.thresholds = thresholds
        return other

    def without_head(self) -> Self:
        """Return a cascade of the same linear graph that answers alone."""
        other = copy(self)
        other._head = None
        return other

    @property
    def has_head(self) -> bool:
        """Whether there is a transformer stage."""
        return self._head is not None

    def answer(self, texts: Sequence[str]) -> Answers:
        """Return the answers to n texts."""
        probabilities, scores = self.ask_linear(texts)
        if self._head is None:
            confident = probabilities.max(axis=1, initial=0.0) >= self.thresholds.alone
            return Answers(probabilities, np.zeros(len(texts), dtype=bool), confident)
        escalated = self.thresholds.escalates(scores)
        rows = np.flatnonzero(escalated).tolist()
        probabilities[rows] = self.ask_transformer([texts[row] for row in rows], scores[rows])
        confident = probabilities.max(axis=1, initial=0.0) >= self.thresholds.transformer
        return Answers(probabilities, escalated, confident | ~escalated)

    def ask_linear(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities and calibrated scores of the linear stage for n texts, both float32 [n, n_labels]."""
        batches = [
            self._run_linear(texts[start : start + BATCH_QUERIES]) for start in range(0, len(texts), BATCH_QUERIES)
        ]
        empty = np.zeros((0, len(self.labels)), dtype=np.float32)
        probabilities, scores = zip(*batches, strict=True) if batches else ((empty,), (empty,))
        return np.concatenate(probabilities), np.concatenate(scores)

    def ask_transformer(self, texts: Sequence[str], scores: np.ndarray) -> np.ndarray:
        """Return probabilities of the transformer stage for n texts, float32 [n, n_labels]; no rows without a head.

        Args:
            texts: n texts.
            scores: of the linear stage for them, float32 [n, n_labels].

        """
        if self._head is None or self._embeddings is None or not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        return self.run_head(np.hstack([self._embeddings.embed(texts).astype(np.float32), scores]))

    def run_head(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [n, n_labels] of embeddings beside scores, float32 [n, columns + n_labels]."""
        assert self._head is not None  # noqa: S101 - callers have asked `has_head`
        return np.asarray(self._head.run([OUTPUT_NAME], {HEAD_INPUT_NAME: features})[0])

    def measure_linear_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query in the linear stage, normalisation included, in microseconds."""
        return _measure_median_micros(lambda text: self._run_linear([text]), texts)

    def measure_transformer_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query in both stages, embedding included, in microseconds; 0 without a head."""
        if self._head is None or self._embeddings is None:
            return 0.0
        encoder = self._embeddings.encoder

        def ask(text: str) -> None:
            _, scores = self._run_linear([text])
            self.run_head(np.hstack([encoder.embed_one(text), scores]))

        return _measure_median_micros(ask, texts)

    def _run_linear(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        column = np.array([[normalise(text)] for text in texts], dtype=object)
        probabilities, scores = self._linear.run([OUTPUT_NAME, SCORES_NAME], {INPUT_NAME: column})
        return np.asarray(probabilities), np.asarray(scores)


def lower_thresholds(cascade: Cascade, texts: Sequence[str]) -> Thresholds:
    """Return the cascade's thresholds, lowered as far as it takes to abstain from none of some texts."""
    if not texts:
        return cascade.thresholds
    probabilities, _ = cascade.ask_linear(texts)
    alone = min(cascade.thresholds.alone, float(probabilities.max(axis=1).min()))
    answers = cascade.answer(texts)
    confidences = answers.confidences[answers.escalated]
    return replace(
        cascade.thresholds,
        alone=alone,
        transformer=min(cascade.thresholds.transformer, float(confidences.min(initial=1.0))),
    )


def _measure_median_micros(ask: Callable[[str], object], texts: Sequence[str]) -> float:
    times = []
    for text in texts:
        began = time.perf_counter()
        ask(text)
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times) if times else 0.0
