"""Says which words and n-grams spoke for a label, by the weights of the linear stage.

The trainer ships nodes and outputs that, appended to the linear graph, give what each gram adds to each label's score.
The session over both is made when the first explanation is asked for: until then it costs nothing.
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
    """What a gram adds to a label's score beyond the mean over all labels. `characters`: it is no whole word."""

    gram: str
    characters: bool
    weight: float


@dataclass(frozen=True)
class Explanation:
    """What spoke for a label and against it, strongest first; `intercept` is what it starts from."""

    label: str
    grams: tuple[GramWeight, ...]
    intercept: float


class Explainer:
    """Explains the answers of one version. Safe to share between threads."""

    def __init__(
        self, graph: bytes, outputs: bytes, input_name: str, scores_name: str, labels: tuple[str, ...]
    ) -> None:
        self._graph = graph + outputs
        self._input_name = input_name
        self._outputs = [scores_name, "word_grams", "word_contributions", "character_grams", "character_contributions"]
        self._labels = labels
        self._opening = threading.Lock()

    def explain(self, query: str, label: str) -> Explanation | None:
        """Explain a label, or return None for one that the model does not have."""
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
    """Return the grams that count, each once, however often it occurs."""
    weights: dict[str, float] = {}
    for gram, row in zip(grams, contributions, strict=True):
        if row.any():
            weights[gram] = weights.get(gram, 0.0) + float(row[column] - row.mean())
    return [GramWeight(gram, characters, weight) for gram, weight in weights.items()]
