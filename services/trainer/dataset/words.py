"""The words of an example: which of them carry meaning, and hashes of them that ignore their order."""

import hashlib

from services.language import text as query_text
from services.trainer.dataset.stop_words import STOP_WORDS


def text_key(text: str) -> str:
    """Return 16 hexadecimal digits that texts with the same normalised form share, and in practice no others."""
    return hashlib.sha256(query_text.normalise(text).encode()).hexdigest()[:16]


def digest_of_words(text: str) -> bytes:
    """Return the SHA-256 of the set of words of a normalised text. The order of the words makes no difference."""
    return hashlib.sha256(" ".join(sorted(set(text.split()))).encode()).digest()


def digest_of_content(text: str) -> bytes:
    """Return the SHA-256 of a normalised text's set of content words: the same for near duplicates.

    A text without content words is hashed by all of its words.
    """
    return hashlib.sha256(" ".join(sorted(content_words(text) or set(text.split()))).encode()).digest()


def content_words(text: str) -> set[str]:
    """Return the words of a normalised text that are no English function words, each without a final "s" (plural)."""
    return {word.removesuffix("s") for word in text.split() if word not in STOP_WORDS}


def describe_problem(text: str) -> str:
    """Say why a text cannot be an example, or return the empty string when it can.

    An example needs at least one word. A query does not, because a classifier may abstain from it.
    """
    if problem := query_text.describe_problem(text):
        return problem
    return "" if query_text.normalise(text) else "has no words; send a text with at least one word"
