"""The linear classifier: an ONNX graph from normalised text to probabilities, run by ONNX Runtime on one thread."""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from services.inference.ranking import Intent, Ranking
from services.inference.text import normalise

NO_WORDS = "the query has no words"


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Create a session for one CPU thread. Creation holds the GIL, so call it for one model at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class LinearClassifier:
    """Ranks the labels of one loaded model. Safe to share between threads."""

    def __init__(
        self, session: onnxruntime.InferenceSession, input_name: str, output_name: str, labels: tuple[str, ...]
    ) -> None:
        self._session = session
        self._input_name = input_name
        self._outputs = [output_name]
        self._labels = labels

    def probabilities(self, queries: Sequence[str]) -> np.ndarray:
        """Return float32 [n, n_labels], rows summing to 1, for queries that are not normalised yet.

        Each query is a run of its own: multiplied together, rows round differently (seen up to 1e-7), and a batch
        must answer exactly as single queries do.
        """
        return np.concatenate([self._run(query) for query in queries])

    def _run(self, query: str) -> np.ndarray:
        text = np.array([[normalise(query)]], dtype=object)
        (probabilities,) = self._session.run(self._outputs, {self._input_name: text})
        return np.asarray(probabilities)

    def rank(self, queries: Sequence[str], top_k: int) -> list[Ranking]:
        """Return one ranking for each query, of at most top_k labels; a query without words is abstained from."""
        return [
            self._ranking(row, top_k) if normalise(query) else Ranking((), NO_WORDS)
            for query, row in zip(queries, self.probabilities(queries), strict=True)
        ]

    def _ranking(self, row: np.ndarray, top_k: int) -> Ranking:
        best = np.argsort(-row, kind="stable")[:top_k]
        return Ranking(tuple(Intent(self._labels[index], float(row[index])) for index in best))
