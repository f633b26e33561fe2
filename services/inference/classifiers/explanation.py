"""Explains an answer with the weights of the linear stage: which words and n-grams speak for a label.

A version has a second file with further nodes and outputs for the linear graph. They compute what each n-gram adds to
the score of each label. This larger graph is opened at the first explanation, so it costs nothing before.
"""

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnxruntime

from services.language.session import open_session
from services.language.text import normalise

MAX_GRAMS = 20


@dataclass(frozen=True)
class GramWeight:
    """What an n-gram adds to the score of a label, minus the mean over all labels.

    `characters` is true for a character n-gram and false for a word n-gram.
    """

    gram: str
    characters: bool
    weight: float


@dataclass(frozen=True)
class Explanation:
    """The n-grams of a label, largest absolute weight first, and its score before any n-gram is added."""

    label: str
    grams: tuple[GramWeight, ...]
    intercept: float


class Explainer:
    """Explains the answers of one version. Threads may share it."""

    def __init__(
        self, graph: bytes, outputs: bytes, input_name: str, scores_name: str, labels: tuple[str, ...]
    ) -> None:
        self._graph = graph + outputs
        self._input_name = input_name
        self._outputs = [scores_name, "word_grams", "word_contributions", "character_grams", "character_contributions"]
        self._labels = labels
        self._opening = threading.Lock()

    def explain(self, query: str, label: str) -> Explanation | None:
        """Return the explanation of a label for a query, with at most MAX_GRAMS n-grams; None for an unknown label."""
        if label not in self._labels:
            return None
        column = self._labels.index(label)
        text = np.array([[normalise(query)]], dtype=object)
        scores, *tensors = self._opened.run(self._outputs, {self._input_name: text})
        words, characters = (
            _weights(grams[0], contributions[0], column, characters=kind)
            for grams, contributions, kind in ((*tensors[:2], False), (*tensors[2:], True))
        )
        explained = sum(part[0, :, column].sum() for part in (tensors[1], tensors[3]))
        strongest = sorted(words + characters, key=lambda gram: -abs(gram.weight))[:MAX_GRAMS]
        return Explanation(label, tuple(strongest), float(scores[0, column] - explained))

    @property
    def _opened(self) -> onnxruntime.InferenceSession:
        with self._opening:
            return self._session

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self._graph)


def _weights(grams: np.ndarray, contributions: np.ndarray, column: int, *, characters: bool) -> list[GramWeight]:
    """Return the n-grams with a weight. An n-gram that occurs several times is returned once, with the sum.

    Args:
        grams: the n-grams, [n].
        contributions: what each adds to the score of each label, [n, n_labels].
        column: the label to explain.
        characters: whether these are character n-grams.

    """
    weights: dict[str, float] = {}
    for gram, row in zip(grams, contributions, strict=True):
        if row.any():
            weights[gram] = weights.get(gram, 0.0) + float(row[column] - row.mean())
    return [GramWeight(gram, characters, weight) for gram, weight in weights.items()]
