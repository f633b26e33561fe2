"""How results and errors are shown: JSON on standard output when asked for, else tables; errors in one line.

What people typed is shown, too. It never steers the terminal: rich's markup is off, and control characters are written
as escapes.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

FAILED = 1
REFUSED = 2

# Control characters of both sets, line and paragraph separators, what turns the direction of text, lone surrogates.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Return a text with each character that could steer a terminal as its escape: ESC becomes \u001b."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as JSON values with the proto's field names."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def enum_word(enum: Any, number: int) -> str:
    """Return the name of an enum's value without the enum's prefix, in lower case."""
    return str(enum.Name(number).removeprefix(enum.Name(0).removesuffix("UNSPECIFIED")).lower())


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
    typer.echo("\n".join(harmless(line) for line in lines))


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values below each other."""
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(_cell(name), _cell(value))
    Console().print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table()
    for column in columns:
        table.add_column(_cell(column), overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    Console().print(table)


def print_rules(rules: Sequence[tuple[str, bool, str]]) -> None:
    """Print rules of a gate: name, whether it passed, its numbers."""
    rows = [(name, "yes" if passed else "NO", numbers) for name, passed, numbers in rules]
    print_table(("rule", "passed", "numbers"), rows)


def print_line(text: str) -> None:
    """Print one line."""
    typer.echo(harmless(text))


def progress_bar() -> Progress:
    """Return a progress bar on standard error, so that standard output holds only results."""
    return Progress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def note(text: str) -> None:
    """Print one line worth knowing on standard error."""
    print(f"moodfood: {harmless(text)}", file=sys.stderr)  # noqa: T201 - the command's output


def fail(problem: str) -> NoReturn:
    """Print a problem in one line and end with status 1."""
    note(problem)
    raise typer.Exit(FAILED)


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Print errors of these kinds in one line and end with status 1."""
    try:
        yield
    except kinds as error:
        fail(str(error))


def _cell(value: object) -> Text:
    return Text(harmless(f"{value:.4f}" if isinstance(value, float) else str(value)))
