"""Checks the text of a query, and normalises it before a classifier reads it.

The name of the normalisation and the Unicode version are part of every manifest. If you change how a text is
normalised, change the name. Another Unicode version changes only a few rare characters, so it needs no new name.
"""

import unicodedata

NORMALIZER = "nfkc-lower-words-1"
UNICODE_VERSION = unicodedata.unidata_version
MAX_QUERY_CHARS = 10_000

APOSTROPHES = "'\u2019"
_KEPT = frozenset("LNM")


class _WordTable(dict[int, str | None]):
    """The table for str.translate, from a code point to its replacement.

    Letters, digits and marks stay. A symbol becomes a word of its own. Apostrophes disappear. Everything else becomes a
    space. Entries are added when a character is first seen.
    """

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
    """Return the words of a text in lower case and in Unicode form NFKC, separated by single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_WORDS).split())


def describe_problem(text: str) -> str:
    """Say why a text cannot be a query, or return the empty string when it can.

    A text cannot be a query when it is empty, has only spaces, is longer than MAX_QUERY_CHARS, or contains a NUL
    character or half of a surrogate pair. The answer follows the name of the field, as in "text: is empty".
    """
    if not text.strip():
        return "is empty; send some text"
    if len(text) > MAX_QUERY_CHARS:
        return f"has {len(text):,} characters; send at most {MAX_QUERY_CHARS:,}"
    if "\0" in text:
        return "contains a NUL character; send plain text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair; send valid Unicode"
    return ""
