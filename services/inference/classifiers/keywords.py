"""The keyword classifier: it matches the word stems of a query against the descriptors of the taxonomy.

A descriptor counts more when it has more words and when fewer labels share it. The classifier needs no training, so it
answers while no model is loaded. It has no probabilities, so its confidence is 0.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import snowballstemmer

from services.inference.classifiers.ranking import Intent, Ranking
from services.inference.classifiers.taxonomy import LabelEntry
from services.language.text import normalise

NO_MATCH = "no word of the query is a descriptor"

_stemmer = snowballstemmer.stemmer("english")


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    return str(_stemmer.stemWord(word))


def stems(text: str) -> tuple[str, ...]:
    """Return the English stem of each word of a text, in order."""
    return tuple(_stem(word) for word in normalise(text).split())


class KeywordClassifier:
    """Ranks labels by the descriptors that a query contains. Threads may share it."""

    def __init__(self, entries: Iterable[LabelEntry]) -> None:
        self._labels_of: Mapping[tuple[str, ...], tuple[str, ...]] = _index(entries)
        self._longest = max((len(phrase) for phrase in self._labels_of), default=0)

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        """Return one ranking for each query, of at most top_k labels."""
        return [self._rank_one(query, top_k) for query in queries]

    def _rank_one(self, query: str, top_k: int) -> Ranking:
        scores: dict[str, float] = defaultdict(float)
        for phrase in self._phrases(stems(query)):
            labels = self._labels_of[phrase]
            for label in labels:
                scores[label] += len(phrase) / len(labels)
        if not scores:
            return Ranking((), NO_MATCH)
        best = sorted(scores, key=lambda label: (-scores[label], label))[:top_k]
        return Ranking(tuple(Intent(label, 0.0) for label in best))

    def _phrases(self, words: tuple[str, ...]) -> set[tuple[str, ...]]:
        spans = (
            words[start : start + length]
            for length in range(1, self._longest + 1)
            for start in range(len(words) - length + 1)
        )
        return {span for span in spans if span in self._labels_of}


def _index(entries: Iterable[LabelEntry]) -> dict[tuple[str, ...], tuple[str, ...]]:
    labels_of: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for entry in entries:
        for descriptor in (*entry.descriptors, entry.plain_name):
            if phrase := stems(descriptor):
                labels_of[phrase][entry.label] = None
    return {phrase: tuple(labels) for phrase, labels in labels_of.items()}
