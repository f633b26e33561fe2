"""What a query must look like, and the form it takes before any classifier sees it.

The normaliser's name and the Unicode version stand in every manifest. A change of behaviour needs a new name. Another
Unicode version changes the form of a few rare characters only, so it needs no new name.
"""

import unicodedata

NORMALIZER = "nfkc-lower-words-1"
UNICODE_VERSION = unicodedata.unidata_version
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


def describe_problem(text: str) -> str:
    """Say why a text cannot be a query, or return the empty string when it can.

    A text cannot be a query when it is empty, only spaces, longer than MAX_QUERY_CHARS, or has a NUL or half of a
    surrogate pair.
    """
    if not text.strip():
        return "is empty; say what you feel like"
    if len(text) > MAX_QUERY_CHARS:
        return f"has {len(text):,} characters; send at most {MAX_QUERY_CHARS:,}"
    if "\0" in text:
        return "holds a NUL character; send plain text"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half of a surrogate pair; send valid Unicode"
    return ""
