"""What an example's text must look like, and the form it takes before any vectorizer sees it.

`normalise` exists a second time in inference, because services share no domain code; a contract test proves that both
give the same for any text. Its name goes into every manifest, so a change of behaviour needs a new name.
"""

import hashlib
import unicodedata

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

NORMALIZER = "nfkc-lower-words-1"
MAX_QUERY_CHARS = 10_000

APOSTROPHES = "'\u2019"
_KEPT = frozenset("LNM")


class _WordTable(dict[int, str | None]):
    """Maps a code point for str.translate: letters, digits and marks stay, symbols stand alone, the rest separates."""

    def __missing__(self, code_point: int) -> str | None:
        character = chr(code_point)
        category = unicodedata.category(character)
        if character in APOSTROPHES:
            mapped: str | None = None
        elif category[0] in _KEPT:
            mapped = character
        elif category == "So":
            mapped = f" {character} "
        else:
            mapped = " "
        self[code_point] = mapped
        return mapped


_WORDS = _WordTable()


def normalise(text: str) -> str:
    """Return words in lower case, separated by single spaces: NFKC, apostrophes dropped, punctuation to spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_WORDS).split())


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


def problem_with(text: str) -> str:
    """Say why a text cannot be an example, or return the empty string when it can."""
    if not text.strip():
        return "is empty; send what the user said"
    if len(text) > MAX_QUERY_CHARS:
        return f"has {len(text):,} characters; send at most {MAX_QUERY_CHARS:,}"
    if "\0" in text:
        return "holds a NUL character; send plain text"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half of a surrogate pair; send valid Unicode"
    if not normalise(text):
        return "has no word in it; send words"
    return ""
