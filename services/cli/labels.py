"""`moodfood labels`: the review queue, export, and forgetting a person."""

import getpass
import sys
from typing import Annotated

import grpc
import typer
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from services.cli.output import enum_word, one_line_errors, plain, print_facts, print_json, print_table
from services.cli.settings import Settings

CALL_SECONDS = 30

app = typer.Typer(help="Labels: review queries, export what people gave, forget a person.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def review(limit: Annotated[int, typer.Option("--limit", min=1, max=200)] = 20, as_json: Json = False) -> None:
    """List queries that a person should look at, most useful first."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        answer = _stub(channel).ListReviewItems(
            trainer_pb2.ListReviewItemsRequest(page_size=limit), timeout=CALL_SECONDS
        )
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
    item_id: Annotated[str, typer.Argument(help="The item, as `review` lists it.")],
    labels: Annotated[list[str] | None, typer.Argument(help="What it means.")] = None,
    out_of_scope: Annotated[bool, typer.Option("--out-of-scope", help="No label fits.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Show it no more, learn nothing.")] = False,
) -> None:
    """Decide a review item."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        _stub(channel).ResolveReviewItem(
            trainer_pb2.ResolveReviewItemRequest(
                item_id=item_id,
                labels=labels or [],
                out_of_scope=out_of_scope,
                dismiss=dismiss,
                user_id=getpass.getuser(),
            ),
            timeout=CALL_SECONDS,
        )


@app.command()
def export(as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of JSON lines.")] = False) -> None:
    """Write every example that people gave to standard output."""
    asked = trainer_pb2.EXAMPLES_FORMAT_CSV if as_csv else trainer_pb2.EXAMPLES_FORMAT_JSON_LINES
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        for answer in _stub(channel).ExportExamples(
            trainer_pb2.ExportExamplesRequest(format=asked), timeout=CALL_SECONDS
        ):
            sys.stdout.buffer.write(answer.data)


@app.command()
def forget(user_id: Annotated[str, typer.Argument(help="The person.")], as_json: Json = False) -> None:
    """Delete what a person said: feedback, queries, and snapshots that hold them."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        answer = _stub(channel).DeleteUserData(trainer_pb2.DeleteUserDataRequest(user_id=user_id), timeout=CALL_SECONDS)
    print_json(plain(answer)) if as_json else print_facts(plain(answer))


def _stub(channel: grpc.Channel) -> trainer_pb2_grpc.TrainerServiceStub:
    return trainer_pb2_grpc.TrainerServiceStub(channel)
