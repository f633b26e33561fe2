"""What an example is, and where examples come from."""

from dataclasses import dataclass

SEED = "seed"
TAXONOMY = "taxonomy"
FEEDBACK = "feedback"
IMPORT = "import"
REVIEW = "review"
# Sources of labels that people give while the system runs. Of two labels for one text, the later one counts.
FROM_PEOPLE = frozenset({FEEDBACK, IMPORT, REVIEW})


@dataclass(frozen=True, slots=True)
class Example:
    """A text as it was said and its labels; an example without labels is out of scope. `source` is one of the above."""

    text: str
    labels: tuple[str, ...]
    source: str = SEED
