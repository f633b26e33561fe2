"""Counts the word and character n-grams of normalised texts: the features of the linear stage.

A word gram is one word or two neighbouring words. A character gram is 3 to 5 neighbouring characters; a space is added
before and after the text, so that a gram shows whether a word begins or ends there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

WORD_GRAMS = (1, 2)
CHARACTER_GRAMS = (3, 5)
# Normalised text is words between single spaces, so splitting at spaces is all the tokenising there is.
WORD_PATTERN = "[^ ]+"


@dataclass(frozen=True)
class GramCounts:
    """How often each gram occurs in each text.

    Attributes:
        words: word grams, in the order of the first columns.
        characters: character grams, in the order of the columns after them.
        matrix: float32 [n_texts, len(words) + len(characters)].

    """

    words: tuple[str, ...]
    characters: tuple[str, ...]
    matrix: sparse.csr_matrix

    def of(self, rows: np.ndarray) -> "GramCounts":
        """Return the counts of some of the texts; `rows` are indices or a mask."""
        return GramCounts(self.words, self.characters, self.matrix[rows])


def count_grams(texts: Sequence[str]) -> GramCounts:
    """Return the counts of every gram of some normalised texts, and those grams."""
    words, characters = _counters(None, None)
    matrix = _stack(_fit(words, texts), _fit(characters, [_pad(text) for text in texts]))
    return GramCounts(_in_column_order(words.vocabulary_), _in_column_order(characters.vocabulary_), matrix)


def count_words(texts: Sequence[str]) -> GramCounts:
    """Return the counts of every word gram of some normalised texts; they are a fifth of all grams."""
    words, _ = _counters(None, None)
    matrix = _fit(words, texts)
    return GramCounts(_in_column_order(words.vocabulary_), (), matrix)


class GramCounter:
    """Counts the grams of a fixed vocabulary and no others."""

    def __init__(self, words: Sequence[str], characters: Sequence[str]) -> None:
        # scikit-learn refuses an empty vocabulary; no example has a NUL.
        self._vectorizers = _counters(words or ["\0"], characters or ["\0"])
        self._sizes = len(words), len(characters)

    def count(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return float32 [n_texts, len(words) + len(characters)]."""
        words, characters = self._vectorizers
        counted = words.transform(texts), characters.transform([_pad(text) for text in texts])
        return _stack(*(matrix[:, :size] for matrix, size in zip(counted, self._sizes, strict=True)))


def _counters(words: Sequence[str] | None, characters: Sequence[str] | None) -> tuple[CountVectorizer, CountVectorizer]:
    return (
        CountVectorizer(
            lowercase=False,
            token_pattern=WORD_PATTERN,
            ngram_range=WORD_GRAMS,
            vocabulary=words,
            dtype=np.float32,
        ),
        CountVectorizer(
            lowercase=False, analyzer="char", ngram_range=CHARACTER_GRAMS, vocabulary=characters, dtype=np.float32
        ),
    )


def _fit(vectorizer: CountVectorizer, texts: Sequence[str]) -> sparse.csr_matrix:
    return vectorizer.fit_transform(texts)


def _in_column_order(vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))


def _pad(text: str) -> str:
    return f" {text} "


def _stack(words: sparse.csr_matrix, characters: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.hstack([words, characters], format="csr", dtype=np.float32)
