"""Files of labelled examples, JSON lines or CSV: read with an error for each bad line, and written."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from services.trainer.dataset.examples import Example, parse_example

LABEL_SEPARATOR = "|"
COLUMNS = ("text", "labels")
# Longer than any accepted text in the worst case of quoting and encoding.
csv.field_size_limit(1_000_000)


class Format(Enum):
    """How a file holds examples."""

    JSON_LINES = "jsonl"
    CSV = "csv"


@dataclass(frozen=True)
class BadLine:
    """A line that is no example, counted from 1, the field at fault, and what is wrong."""

    line: int
    field: str
    problem: str


def read_file(content: bytes, file_format: Format) -> Iterator[tuple[int, Example] | BadLine]:
    """Yield each example with its line, or what is wrong with a line; empty lines are passed over."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield BadLine(content.count(b"\n", 0, error.start) + 1, "line", "is not UTF-8")
        return
    yield from _read_csv(text) if file_format is Format.CSV else _read_json_lines(text)


def _read_json_lines(text: str) -> Iterator[tuple[int, Example] | BadLine]:
    # Only line feeds end a line of JSON; str.splitlines would also cut at other separators inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        parsed = parse_example(line)
        yield (number, parsed) if isinstance(parsed, Example) else BadLine(number, "line", parsed)


def _read_csv(text: str) -> Iterator[tuple[int, Example] | BadLine]:
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


def written(rows: Iterable[tuple[str, Sequence[str], str]], file_format: Format) -> Iterator[bytes]:
    """Yield a file's lines for rows of text, labels and source."""
    if file_format is Format.JSON_LINES:
        for text, labels, source in rows:
            row = {"text": text, "labels": list(labels), "source": source}
            yield (json.dumps(row, ensure_ascii=False) + "\n").encode()
        return
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\n")
    writer.writerow((*COLUMNS, "source"))
    for text, labels, source in rows:
        yield _taken(line)
        writer.writerow((text, LABEL_SEPARATOR.join(labels), source))
    yield _taken(line)


def _taken(line: io.StringIO) -> bytes:
    content = line.getvalue().encode()
    line.seek(0)
    line.truncate()
    return content
