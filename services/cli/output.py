"""How results and errors are shown: JSON on standard output when asked for, else tables; errors in one line."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from moodfood.inference.v1 import inference_pb2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.trainer.errors import TrainerError

FAILED = 1
REFUSED = 2


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
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values below each other."""
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def print_explanation(answer: inference_pb2.Classification) -> None:
    """Print why stages passed and what spoke for the best label."""
    for passed in answer.passed:
        stage = enum_word(inference_pb2.Stage, passed.stage)
        typer.echo(f"{stage} passed: {passed.reason}")
    if not answer.HasField("explanation"):
        typer.echo("no model has words to explain this answer by")
        return
    typer.echo(answer.explanation.summary)
    print_table(
        ("gram", "kind", "weight"),
        [
            (
                repr(each.gram),
                enum_word(inference_pb2.GramKind, each.kind),
                each.weight,
            )
            for each in answer.explanation.grams
        ],
    )


def progress_bar() -> Progress:
    """Return a progress bar on standard error, so that standard output holds only results."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what the user can mend into one line on standard error and exit status 1."""
    try:
        yield
    except grpc.RpcError as error:
        fail(rpc_problem(error))
    except (TrainerError, OSError) as error:
        fail(str(error))


def note(text: str) -> None:
    """Print something worth knowing on standard error."""
    print(f"moodfood: {text}", file=sys.stderr)  # noqa: T201 - the command's output


def fail(problem: str) -> None:
    """Print a problem and end."""
    note(problem)
    raise typer.Exit(FAILED)


def rpc_problem(error: grpc.RpcError) -> str:
    """Return what a service answered, or that it did not."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAVAILABLE and "moodfood" not in details:
        return "a service cannot be reached; start it with `moodfood up` or set MOODFOOD_HOST and the ports"
    return f"{code.name}: {details}"
