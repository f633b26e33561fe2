"""What a query must look like, and the form it takes before any classifier sees it.

`normalise` exists a second time in the trainer, because services share no domain code; a contract test proves that
both give the same for any text. Its name goes into every manifest, so a change of behaviour needs a new name.
"""

import unicodedata

from services.inference.errors import InvalidQuery

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


def check_query(text: str, field: str = "text") -> None:
    """Refuse a text that cannot be a query.

    Raises:
        InvalidQuery: empty, only spaces, longer than MAX_QUERY_CHARS, or with a NUL or a lone surrogate.

    """
    if not text.strip():
        raise InvalidQuery(field, "is empty; say what you feel like")
    if len(text) > MAX_QUERY_CHARS:
        raise InvalidQuery(field, f"has {len(text):,} characters; send at most {MAX_QUERY_CHARS:,}")
    if "\0" in text:
        raise InvalidQuery(field, "holds a NUL character; send plain text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidQuery(field, "holds half of a surrogate pair; send valid Unicode")
