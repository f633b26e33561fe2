"""The words of an example: which of them carry its meaning, and whether it has any."""

import hashlib

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from services.language import text as query_text


def digest_of_words(text: str) -> bytes:
    """Return the SHA-256 of a normalised text's set of words: the same whatever their order."""
    return hashlib.sha256(" ".join(sorted(set(text.split()))).encode()).digest()


def digest_of_content(text: str) -> bytes:
    """Return the SHA-256 of a normalised text's content words: the same for texts that say nearly the same.

    Content words are those that are no English function words, without the plural's s, in any order. A text without
    one is taken by all its words.
    """
    return hashlib.sha256(" ".join(sorted(content_words(text) or set(text.split()))).encode()).digest()


def content_words(text: str) -> set[str]:
    """Return the words of a normalised text that are no English function words, without the plural's s."""
    return {word.removesuffix("s") for word in text.split() if word not in ENGLISH_STOP_WORDS}


def describe_problem(text: str) -> str:
    """Say why a text cannot be an example, or return the empty string when it can.

    An example needs a word; a query does not, because a classifier may abstain from it.
    """
    return query_text.describe_problem(text) or ("" if query_text.normalise(text) else "has no word in it; send words")
