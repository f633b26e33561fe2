"""Routes of the people who label: feedback, the review queue, files of examples, and forgetting a person."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from moodfood.trainer.v1 import trainer_pb2
from msgspec import Meta, Struct

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.refusals import InvalidBody
from services.gateway.routes.fields import Body, Label, Text, read

TAG = "Label"
MAX_IMPORT_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
# Ten million examples take minutes, and more when the caller reads slowly.
EXPORT_SECONDS = 3600.0

UserId = Annotated[str, Meta(max_length=128, description="Who says so")]
ReviewReason = Literal["unspecified", "uncertain", "disagreeing", "drifting", "suspected_noise"]
FileFormat = Annotated[Literal["jsonl", "csv"], QueryParameter(description="Format of the file")]

_FORMATS = {"jsonl": trainer_pb2.EXAMPLES_FORMAT_JSON_LINES, "csv": trainer_pb2.EXAMPLES_FORMAT_CSV}
_MEDIA_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


class FeedbackBody(Body):
    """What a query means: the answer's `query_id` or the `text` itself, and its labels."""

    labels: Annotated[list[Label], Meta(min_length=1, max_length=10)]
    query_id: Annotated[str, Meta(max_length=200)] | None = None
    text: Text | None = None
    user_id: UserId = ""
    request_id: Annotated[
        str, Meta(max_length=128, description="A person's feedback with the same id is stored once")
    ] = ""


class FeedbackAnswer(Struct):
    """The feedback is on disk."""

    status: Literal["recorded"]
    feedback_id: str


@post("/feedback", status_code=201, tags=[TAG], summary="Say what a query means", responses=describe(400, 404, 413))
async def give_feedback(data: JSONBody[FeedbackBody], peers: NamedDependency[Peers]) -> FeedbackAnswer:
    """Store the right labels of an answered query or of a text. The next training run learns them."""
    if (data.query_id is None) == (data.text is None):
        raise InvalidBody("query_id", "send either query_id or text")
    response = await peers.trainer.SubmitFeedback(
        trainer_pb2.SubmitFeedbackRequest(
            query_id=data.query_id or "",
            text=data.text or "",
            labels=data.labels,
            user_id=data.user_id,
            request_id=data.request_id,
        ),
        timeout=peers.training_seconds,
    )
    return FeedbackAnswer(status="recorded", feedback_id=response.feedback_id)


class ReviewItem(Struct):
    """A query that a person should look at."""

    item_id: str
    text: Annotated[str, Meta(description="What the user said")]
    reason: ReviewReason
    score: Annotated[float, Meta(description="How much its label would teach, 0 to 1")]
    believed: Annotated[str, Meta(description="The label that the model believes in; empty if it has none")]
    confidence: Annotated[float, Meta(description="How much it does, 0 to 1")]
    labels: Annotated[list[str], Meta(description="Labels it was given already")]
    query_id: Annotated[str, Meta(description="The answer it is about; empty for an example")]


class ReviewQueue(Struct):
    """Review items, most useful first."""

    items: list[ReviewItem]
    waiting: Annotated[int, Meta(description="How many queries wait, those not listed included")]


@get("/review", tags=[TAG], summary="List queries that a person should look at", responses=describe(400))
async def list_review_items(
    peers: NamedDependency[Peers],
    limit: Annotated[int, QueryParameter(ge=1, le=200, description="At most this many")] = 20,
    reason: Annotated[
        Literal["", "uncertain", "disagreeing", "drifting", "suspected_noise"],
        QueryParameter(description="Only queries with this reason; empty for all"),
    ] = "",
) -> ReviewQueue:
    """List the queries whose labels would teach the model most. A query that was decided does not come back."""
    chosen = [trainer_pb2.ReviewReason.Value(f"REVIEW_REASON_{reason.upper()}")] if reason else []
    response = await peers.trainer.ListReviewItems(
        trainer_pb2.ListReviewItemsRequest(page_size=limit, reasons=chosen), timeout=peers.training_seconds
    )
    return ReviewQueue([read(item, ReviewItem) for item in response.items], response.waiting)


class ReviewBody(Body):
    """What a review item means: exactly one of `labels`, `out_of_scope` and `dismiss`."""

    labels: Annotated[list[Label], Meta(max_length=10)] = msgspec.field(default_factory=list)
    out_of_scope: Annotated[bool, Meta(description="No label fits; the model learns that too")] = False
    dismiss: Annotated[bool, Meta(description="Do not show it again and learn nothing")] = False
    user_id: UserId = ""


class ReviewAnswer(Struct):
    """The item was decided."""

    status: Literal["recorded", "dismissed"]
    feedback_id: Annotated[str, Meta(description="Empty for a dismissed item")]


@post(
    "/review/{item_id:str}",
    status_code=200,
    tags=[TAG],
    summary="Decide a review item",
    responses=describe(400, 404, 413),
)
async def decide_review_item(
    item_id: FromPath[str], data: JSONBody[ReviewBody], peers: NamedDependency[Peers]
) -> ReviewAnswer:
    """Give the item labels, or say that no label fits, or dismiss it. It is never shown again."""
    response = await peers.trainer.ResolveReviewItem(
        trainer_pb2.ResolveReviewItemRequest(
            item_id=item_id,
            labels=data.labels,
            out_of_scope=data.out_of_scope,
            dismiss=data.dismiss,
            user_id=data.user_id,
        ),
        timeout=peers.training_seconds,
    )
    return ReviewAnswer("dismissed" if data.dismiss else "recorded", response.feedback_id)


class BadLine(Struct):
    """A line of the file that is no usable example."""

    line: Annotated[int, Meta(description="From 1")]
    field: Annotated[str, Meta(description="text or labels, or line when it is no example at all")]
    description: str


class ImportAnswer(Struct):
    """All examples of a file were stored, or none."""

    status: Literal["imported", "refused"]
    imported: Annotated[int, Meta(description="How many examples were stored; 0 when the file was refused")]
    errors: Annotated[list[BadLine], Meta(description="The first 100 bad lines")]


@dataclass
class FileBody(Operation):
    """Describes the body of the import, which the route reads as a stream."""

    def __post_init__(self) -> None:
        """Add the description."""
        file = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
        self.request_body = RequestBody({"application/x-ndjson": file, "text/csv": file}, required=True)


@post(
    "/examples/import",
    status_code=200,
    operation_class=FileBody,
    tags=[TAG],
    summary="Store a file of labelled examples",
    request_max_body_size=MAX_IMPORT_BYTES,
    responses={
        **describe(400, 413),
        422: ResponseSpec(ImportAnswer, generate_examples=False, description="Lines are bad; nothing was stored."),
    },
)
async def import_examples(
    request: Request[Any, Any, Any], peers: NamedDependency[Peers], file_format: FileFormat = "jsonl"
) -> Response[ImportAnswer]:
    """Store every example of the body, or none if one is bad. The body has at most 64 MiB.

    `jsonl`: one object `{"text": "...", "labels": ["..."]}` in each line. `csv`: a header with the columns text and
    labels; several labels are separated by `|`.
    """
    call = peers.trainer.ImportExamples(timeout=peers.promotion_seconds)
    try:
        await _send_file(request, call, _FORMATS[file_format])
        response = await call
    finally:
        call.cancel()
    answer = ImportAnswer(
        status="refused" if response.errors else "imported",
        imported=response.imported,
        errors=[read(error, BadLine) for error in response.errors],
    )
    return Response(answer, status_code=422 if response.errors else 200)


async def _send_file(
    request: Request[Any, Any, Any], call: Any, file_format: "trainer_pb2.ExamplesFormat.ValueType"
) -> None:
    # A trainer that answers before the end of the file has finished the call; what it said comes with the response.
    with suppress(asyncio.InvalidStateError):
        async for chunk in request.stream():
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                await call.write(trainer_pb2.ImportExamplesRequest(data=piece, format=file_format))
        await call.done_writing()


@get(
    "/examples/export",
    tags=[TAG],
    summary="Download every example that people gave",
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            description="The file; as CSV its type is text/csv.",
            media_type="application/x-ndjson",
        ),
        **describe(400),
    },
)
async def export_examples(peers: NamedDependency[Peers], file_format: FileFormat = "jsonl") -> Stream:
    """Return feedback, imports and reviews, oldest first, as a file that the import accepts."""
    call = peers.trainer.ExportExamples(
        trainer_pb2.ExportExamplesRequest(format=_FORMATS[file_format]), timeout=EXPORT_SECONDS
    )
    responses = aiter(call)
    # The status can say that the trainer is away only as long as nothing was sent.
    first = await anext(responses, None)

    async def pieces() -> AsyncIterator[bytes]:
        if first is not None:
            yield first.data
        async for response in responses:
            yield response.data

    name = f"attachment; filename=examples.{file_format}"
    return Stream(pieces, media_type=_MEDIA_TYPES[file_format], headers={"content-disposition": name})


class DeletionAnswer(Struct):
    """What was deleted, by where it was."""

    status: Literal["deleted"]
    feedback: Annotated[int, Meta(description="Statements in the database: feedback and reviews")]
    imports: Annotated[int, Meta(description="Imported examples in the database with the text of a statement")]
    queries: Annotated[int, Meta(description="Queries in the database that it is about, or with the same text")]
    review_items: Annotated[int, Meta(description="Items of the review queue")]
    snapshots: Annotated[int, Meta(description="Dataset snapshots that held a text of this person")]
    embeddings: Annotated[int, Meta(description="Stored embeddings of these texts")]
    log_lines: Annotated[int, Meta(description="Lines of the replicas' query logs")]
    spooled: Annotated[int, Meta(description="Records of queries that waited on the replicas")]
    replicas_pending: Annotated[int, Meta(description="Replicas that were away; they delete it when they are back")]


@delete("/users/{user_id:str}/data", status_code=200, tags=[TAG], summary="Forget a person", responses=describe(400))
async def delete_user_data(user_id: FromPath[str], peers: NamedDependency[Peers]) -> DeletionAnswer:
    """Delete the person's feedback, the queries it refers to, and every copy of these texts that people gave.

    The call is safe to repeat. When it fails half-way, the next call does the rest.
    """
    response = await peers.trainer.DeleteUserData(
        trainer_pb2.DeleteUserDataRequest(user_id=user_id), timeout=peers.promotion_seconds
    )
    return read(response, DeletionAnswer, status="deleted")
