"""Examples and how they are read from JSON-lines files of {"text", "labels"}."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.errors import BrokenData
from services.trainer.storage import read_lines

SEED = "seed"
TAXONOMY = "taxonomy"
FEEDBACK = "feedback"
IMPORT = "import"
REVIEW = "review"
# Given by people while the system runs; what comes later counts more.
FROM_PEOPLE = frozenset({FEEDBACK, IMPORT, REVIEW})


@dataclass(frozen=True)
class Example:
    """A query and its labels; no labels means out of scope. `source` is where it came from."""

    text: str
    labels: tuple[str, ...]
    source: str = SEED


@dataclass(frozen=True)
class MalformedLine:
    """A line that is no example, and why."""

    path: Path
    number: int
    problem: str


def read_examples(names: Sequence[str | Path]) -> tuple[list[Example], list[MalformedLine]]:
    """Return the examples of some files and the lines that are none.

    Raises:
        BrokenData: a file does not exist or cannot be read.

    """
    examples: list[Example] = []
    malformed: list[MalformedLine] = []
    for path in map(Path, names):
        for number, line in enumerate(_lines(path), start=1):
            parsed = parse_example(line)
            if isinstance(parsed, Example):
                examples.append(parsed)
            else:
                malformed.append(MalformedLine(path, number, parsed))
    return examples, malformed


def parse_example(line: str) -> Example | str:
    """Return the example of one line, or what is wrong with it."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(item, dict):
        return 'is not an object like {"text": "...", "labels": ["..."]}'
    text, labels = item.get("text"), item.get("labels")
    if not isinstance(text, str):
        return '"text" is missing or no string'
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        return '"labels" is missing or no list of strings'
    return Example(text, tuple(dict.fromkeys(labels)))


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise BrokenData(f"there is no file {path}")
    try:
        yield from read_lines(path)
    except OSError as error:
        raise BrokenData(f"cannot read {path}: {error.strerror}") from error
