"""Reads and writes files of labelled examples, as JSON lines or as CSV. A bad line is reported and ends nothing.

A line of JSON is `{"text": "...", "labels": ["...", "..."]}`. A CSV file has the columns `text` and `labels`, with "|"
between labels; other columns are ignored.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from services.trainer.dataset.examples import Example
from services.trainer.errors import BrokenData

LABEL_SEPARATOR = "|"
COLUMNS = ("text", "labels")
CSV_SUFFIX = ".csv"
# The files of a folder that hold examples.
SUFFIXES = (".jsonl", CSV_SUFFIX)
# Longer than any accepted text in the worst case of quoting and encoding.
csv.field_size_limit(1_000_000)


class Format(Enum):
    """How a file holds examples."""

    JSON_LINES = "jsonl"
    CSV = "csv"


@dataclass(frozen=True)
class BadLine:
    """A line that holds no example: its number from 1, the field at fault, and what is wrong."""

    line: int
    field: str
    problem: str


def read_examples(names: Sequence[str | Path]) -> tuple[list[Example], list[BadLine]]:
    """Return the examples of some files and the lines that hold none, both in the order of the files.

    Args:
        names: files and folders. A file is CSV when its name ends with `.csv`, and JSON lines otherwise. A folder
            stands for its `*.jsonl` and `*.csv` files, sorted by name.

    Raises:
        BrokenData: a file does not exist, cannot be read, or is CSV without the columns `text` and `labels`.

    """
    examples: list[Example] = []
    bad_lines: list[BadLine] = []
    for path in (file for name in names for file in _files_of(Path(name))):
        try:
            # One broken character costs a character here, not the file: nobody waits for an answer about it.
            text = path.read_bytes().decode("utf-8-sig", errors="replace")
        except OSError as error:
            raise BrokenData(f"cannot read {path}: {error.strerror}") from error
        is_csv = path.suffix.lower() == CSV_SUFFIX
        for row in _parse_csv(text) if is_csv else _parse_json_lines(text):
            if not isinstance(row, BadLine):
                examples.append(row[1])
            elif is_csv and row.line == 1:
                raise BrokenData(f"cannot read {path}: {row.problem}")
            else:
                bad_lines.append(row)
    return examples, bad_lines


def parse_file(content: bytes, file_format: Format) -> Iterator[tuple[int, Example] | BadLine]:
    """Yield each example with its line number, or what is wrong with a line; empty lines are passed over."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield BadLine(content.count(b"\n", 0, error.start) + 1, "line", "is not UTF-8")
        return
    yield from _parse_csv(text) if file_format is Format.CSV else _parse_json_lines(text)


def encode_rows(rows: Iterable[tuple[str, Sequence[str], str]], file_format: Format) -> Iterator[bytes]:
    """Yield the lines of a file for rows of text, labels and source."""
    if file_format is Format.JSON_LINES:
        for text, labels, source in rows:
            row = {"text": text, "labels": list(labels), "source": source}
            yield (json.dumps(row, ensure_ascii=False) + "\n").encode()
        return
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\n")
    writer.writerow((*COLUMNS, "source"))
    for text, labels, source in rows:
        yield _take_line(line)
        writer.writerow((text, LABEL_SEPARATOR.join(labels), source))
    yield _take_line(line)


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not path.is_file():
        raise BrokenData(f"there is no file {path}")
    return [path]


def _parse_json_lines(text: str) -> Iterator[tuple[int, Example] | BadLine]:
    # StringIO ends lines at line feeds and carriage returns only; str.splitlines would also cut inside strings.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        parsed = _parse_json(line)
        yield (number, parsed) if isinstance(parsed, Example) else BadLine(number, "line", parsed)


def _parse_json(line: str) -> Example | str:
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


def _parse_csv(text: str) -> Iterator[tuple[int, Example] | BadLine]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            yield BadLine(1, "line", f'the header has no column "{missing[0]}"; begin with {",".join(COLUMNS)}')
            return
        for row in rows:
            if row["text"] is None or row["labels"] is None:
                yield BadLine(rows.line_num, "line", f"has fewer cells than the header's {len(rows.fieldnames or ())}")
                continue
            labels = dict.fromkeys(label.strip() for label in row["labels"].split(LABEL_SEPARATOR) if label.strip())
            yield rows.line_num, Example(row["text"], tuple(labels))
    except csv.Error as error:
        yield BadLine(rows.line_num + 1, "line", f"is not CSV: {error}")


def _take_line(line: io.StringIO) -> bytes:
    """Return what was written to a buffer, and empty it."""
    content = line.getvalue().encode()
    line.seek(0)
    line.truncate()
    return content
