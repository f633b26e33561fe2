"""`moodfood labels`: the review queue, files of labelled examples, and forgetting a person."""

import getpass
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from services.cli.arguments import Json
from services.cli.connection import TRAINER, reach
from services.cli.output import enum_word, fail, note, plain, print_facts, print_json, print_table, progress_bar

# The trainer reads whole files for these calls.
FILE_SECONDS = 30.0
IMPORT_SECONDS = 300.0
# Ten million examples take minutes.
EXPORT_SECONDS = 3600.0
PIECE_BYTES = 1024 * 1024

# Fields of DeleteUserDataResponse, and the place that each of them counts.
REMOVED_WHERE = {
    "feedback": "statements in the database",
    "imports": "imported examples with the same texts",
    "queries": "queries in the database",
    "review_items": "items of the review queue",
    "snapshots": "dataset snapshots that held a text",
    "embeddings": "stored embeddings of the texts",
    "log_lines": "lines of the replicas' query logs",
    "spooled": "queries that waited on the replicas",
}

app = typer.Typer(help="Labels: review queries, import and export examples, forget a person.", no_args_is_help=True)


@app.command(name="list")
@app.command(name="review", hidden=True)
def list_items(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many.")] = 20, as_json: Json = False
) -> None:
    """List queries that a person should look at, most useful first."""
    with reach(TRAINER, FILE_SECONDS) as trainer:
        answer = trainer.ListReviewItems(trainer_pb2.ListReviewItemsRequest(page_size=limit))
    if as_json:
        print_json(plain(answer))
        return
    print_table(
        ("item", "reason", "text", "believed", "confidence", "given"),
        [
            (
                item.item_id,
                enum_word(trainer_pb2.ReviewReason, item.reason),
                item.text,
                item.believed or "-",
                item.confidence,
                ", ".join(item.labels) or "-",
            )
            for item in answer.items
        ],
    )
    print_facts({"waiting": answer.waiting})


@app.command()
def resolve(
    item_id: Annotated[str, typer.Argument(help="The item, as `list` names it.")],
    labels: Annotated[list[str] | None, typer.Argument(help="What it means.")] = None,
    out_of_scope: Annotated[bool, typer.Option("--out-of-scope", help="No label fits.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Show it no more, learn nothing.")] = False,
) -> None:
    """Decide a review item."""
    request = trainer_pb2.ResolveReviewItemRequest(
        item_id=item_id,
        labels=labels or [],
        out_of_scope=out_of_scope,
        dismiss=dismiss,
        user_id=getpass.getuser(),
    )
    with reach(TRAINER, FILE_SECONDS) as trainer:
        trainer.ResolveReviewItem(request)


@app.command(name="import")
def import_examples(
    files: Annotated[list[Path], typer.Argument(help="Labelled examples, .csv or JSON lines.")], as_json: Json = False
) -> None:
    """Give the running trainer labelled examples: all of a file, or none when one is bad."""
    with reach(TRAINER, IMPORT_SECONDS) as trainer, progress_bar() as progress:
        task = progress.add_task("import", total=100)
        answer = _import_files(trainer, files, lambda percent: progress.update(task, completed=percent))
    if as_json:
        print_json(plain(answer))
    else:
        print_facts({"imported": answer.imported})
    if answer.errors:
        first = answer.errors[0]
        fail(f"line {first.line}: {first.field}: {first.description} ({len(answer.errors)} bad; none imported)")


@app.command()
def export(as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of JSON lines.")] = False) -> None:
    """Write every example that people gave to standard output."""
    asked = trainer_pb2.EXAMPLES_FORMAT_CSV if as_csv else trainer_pb2.EXAMPLES_FORMAT_JSON_LINES
    with reach(TRAINER, EXPORT_SECONDS) as trainer:
        for answer in trainer.ExportExamples(trainer_pb2.ExportExamplesRequest(format=asked)):
            sys.stdout.buffer.write(answer.data)


@app.command()
def forget(user_id: Annotated[str, typer.Argument(help="The person.")], as_json: Json = False) -> None:
    """Delete what a person said, in every place, and say what was removed where."""
    with reach(TRAINER, FILE_SECONDS) as trainer:
        answer = trainer.DeleteUserData(trainer_pb2.DeleteUserDataRequest(user_id=user_id))
    if as_json:
        print_json(plain(answer))
        return
    print_table(
        ("removed", "where"),
        [(getattr(answer, field), where) for field, where in REMOVED_WHERE.items()],
    )
    if answer.replicas_pending:
        note(f"{answer.replicas_pending} replicas were away; they delete it when they are back")


def _import_files(
    trainer: trainer_pb2_grpc.TrainerServiceStub, files: Sequence[Path], show_percent: Callable[[float], None]
) -> trainer_pb2.ImportExamplesResponse:
    """Send files of examples, each stored as a whole or not at all; stop at the first that is not.

    Raises:
        OSError: a file cannot be read.

    """
    total = trainer_pb2.ImportExamplesResponse()
    for number, path in enumerate(files, start=1):
        answer = trainer.ImportExamples(_pieces(path.read_bytes(), path.suffix))
        total.imported += answer.imported
        total.errors.extend(answer.errors)
        show_percent(100 * number / len(files))
        if answer.errors:
            break
    return total


def _pieces(content: bytes, suffix: str) -> Iterator[trainer_pb2.ImportExamplesRequest]:
    csv = suffix.lower() == ".csv"
    file_format = trainer_pb2.EXAMPLES_FORMAT_CSV if csv else trainer_pb2.EXAMPLES_FORMAT_JSON_LINES
    for start in range(0, len(content), PIECE_BYTES):
        yield trainer_pb2.ImportExamplesRequest(data=content[start : start + PIECE_BYTES], format=file_format)
