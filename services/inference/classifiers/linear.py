"""The linear classifier: an ONNX graph from normalised text to probabilities, run by ONNX Runtime on one thread."""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from services.inference.classifiers.ranking import Ranking, pick_best_intents
from services.language.text import normalise

NO_WORDS = "the query has no words"


class LinearClassifier:
    """Ranks the labels with the linear graph of one version. Threads may share it."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input_name: str,
        output_name: str,
        scores_name: str,
        labels: tuple[str, ...],
    ) -> None:
        self._session = session
        self._input_name = input_name
        self._outputs = [output_name, scores_name]
        self._labels = labels

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        """Return one ranking of at most top_k labels for each query. It abstains from a query without words."""
        return [self._rank(normalise(query), top_k) for query in queries]

    def _rank(self, text: str, top_k: int) -> Ranking:
        if not text:
            return Ranking((), NO_WORDS)
        column = np.array([[text]], dtype=object)
        probabilities, scores = self._session.run(self._outputs, {self._input_name: column})
        return Ranking(pick_best_intents(probabilities[0], self._labels, top_k), scores=scores[0])
