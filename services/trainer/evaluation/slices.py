"""Slices of the evaluation examples: groups by length, script and source that a challenger must not lose."""

import unicodedata
from collections import Counter

from services.language.text import normalise

# The most words in a text of each slice by length, and the name of the slice.
LENGTHS = ((2, "1 to 2 words"), (6, "3 to 6 words"), (14, "7 to 14 words"))
LONGER = "15 words or more"


def slices_of(text: str, source: str) -> tuple[str, ...]:
    """Return the slices of a text whose label came from a source: one by length, one by script, one by source."""
    words = len(normalise(text).split())
    length = next((name for longest, name in LENGTHS if words <= longest), LONGER)
    return f"length: {length}", f"script: {script_of(text)}", f"source: {source}"


def script_of(text: str) -> str:
    """Return the script of most of a text's letters, such as "latin" or "cyrillic"; "none" without a letter.

    Python does not know the script property; the first word of a letter's Unicode name is its script.
    """
    letters = (character for character in text if character.isalpha())
    scripts = Counter(unicodedata.name(letter, "unnamed").split()[0].lower() for letter in letters)
    return scripts.most_common(1)[0][0] if scripts else "none"
