"""Parts of the held-out examples that a challenger must not lose, whatever it gains elsewhere."""

import unicodedata
from collections import Counter

from services.language.text import normalise
from services.trainer.dataset.examples import Example

# Longest number of words of each slice but the last.
LENGTHS = ((2, "1 to 2 words"), (6, "3 to 6 words"), (14, "7 to 14 words"))
LONGER = "15 words or more"


def slices_of(example: Example) -> tuple[str, ...]:
    """Return the slices an example belongs to: by length, by script, by the source of its label."""
    words = len(normalise(example.text).split())
    length = next((name for longest, name in LENGTHS if words <= longest), LONGER)
    return f"length: {length}", f"script: {script_of(example.text)}", f"source: {example.source}"


def script_of(text: str) -> str:
    """Return the script of most of a text's letters, such as "latin" or "cyrillic"; "none" without a letter.

    Python knows no script property; the first word of a letter's Unicode name is its script.
    """
    scripts = Counter(unicodedata.name(each, "unnamed").split()[0].lower() for each in text if each.isalpha())
    return scripts.most_common(1)[0][0] if scripts else "none"
