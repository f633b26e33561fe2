"""The transformer classifier: a sentence encoder, and a head on its embeddings and the scores of the linear stage."""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from services.inference.classifiers.ranking import Ranking, pick_best_intents
from services.language.encoder import Encoder

NO_SCORES = "the linear stage has no scores for the query"


class TransformerClassifier:
    """Ranks the labels with the head of one version. Threads may share it."""

    def __init__(
        self,
        encoder: Encoder,
        session: onnxruntime.InferenceSession,
        input_name: str,
        output_name: str,
        labels: tuple[str, ...],
    ) -> None:
        self._encoder = encoder
        self._session = session
        self._input_name = input_name
        self._outputs = [output_name]
        self._labels = labels

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        """Return one ranking of at most top_k labels for each query. It abstains where `earlier` has no scores.

        Each query is encoded by itself. Padding texts to one length changes their embeddings a little, and a batch must
        give exactly the answers of single queries.
        """
        return [
            self._rank(query, ranking.scores, top_k) if ranking.scores is not None else Ranking((), NO_SCORES)
            for query, ranking in zip(queries, earlier, strict=True)
        ]

    def _rank(self, query: str, scores: np.ndarray, top_k: int) -> Ranking:
        features = np.concatenate([self._encoder.embed_one(query)[0], scores])[None]
        (probabilities,) = self._session.run(self._outputs, {self._input_name: features})
        return Ranking(pick_best_intents(probabilities[0], self._labels, top_k))
