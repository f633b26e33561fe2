"""Runs an exported graph the way serving does: champion and challenger are judged by this and by nothing else."""

import statistics
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime

from services.trainer.export import INPUT_NAME, OUTPUT_NAME
from services.trainer.text import normalise

BATCH_QUERIES = 256


class GraphScorer:
    """An exported graph and the labels of its columns."""

    def __init__(self, graph: bytes, labels: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.labels = tuple(labels)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, n_labels] for texts that are not normalised yet."""
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        parts = [self._run(texts[start : start + BATCH_QUERIES]) for start in range(0, len(texts), BATCH_QUERIES)]
        return np.concatenate(parts)

    def median_query_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query, normalisation included, in microseconds."""
        return statistics.median(self._timed(text) for text in texts) if texts else 0.0

    def _run(self, texts: Sequence[str]) -> np.ndarray:
        column = np.array([[normalise(text)] for text in texts], dtype=object)
        (probabilities,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: column})
        return np.asarray(probabilities)

    def _timed(self, text: str) -> float:
        began = time.perf_counter()
        self._run([text])
        return (time.perf_counter() - began) * 1e6
