"""Routes of the people who label: the review queue, files of examples, and forgetting a person."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from moodfood.trainer.v1 import trainer_pb2

from services.gateway import answers, schemas
from services.gateway.peers import Peers
from services.gateway.problems import InvalidBody

TAG = "Label"
MAX_IMPORT_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 1024 * 1024

_REASONS = {
    "uncertain": trainer_pb2.REVIEW_REASON_UNCERTAIN,
    "disagreeing": trainer_pb2.REVIEW_REASON_DISAGREEING,
    "drifting": trainer_pb2.REVIEW_REASON_DRIFTING,
    "suspected_noise": trainer_pb2.REVIEW_REASON_SUSPECTED_NOISE,
}
_FORMATS = {"jsonl": trainer_pb2.EXAMPLES_FORMAT_JSON_LINES, "csv": trainer_pb2.EXAMPLES_FORMAT_CSV}
_MEDIA_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

FileFormat = Annotated[str, QueryParameter(description="jsonl or csv")]


@get("/review", tags=[TAG], summary="Queries that a person should look at, most useful first")
async def review_items(
    peers: NamedDependency[Peers],
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 20,
    reason: Annotated[str, QueryParameter(description="only this reason")] = "",
) -> dict[str, Any]:
    """List uncertain, disagreeing, drifting and suspected queries; no query twice, none that was decided."""
    if reason and reason not in _REASONS:
        raise InvalidBody("reason", f"use one of {', '.join(_REASONS)}")
    response = await peers.trainer.ListReviewItems(
        trainer_pb2.ListReviewItemsRequest(page_size=limit, reasons=[_REASONS[reason]] if reason else []),
        timeout=peers.training_seconds,
    )
    return {"items": [answers.review_item(each) for each in response.items], "waiting": response.waiting}


@post("/review/{item_id:str}", status_code=200, tags=[TAG], summary="Decide a review item")
async def resolve_review_item(
    item_id: FromPath[str], data: JSONBody[schemas.ReviewBody], peers: NamedDependency[Peers]
) -> dict[str, Any]:
    """Give it labels, or say that none fits, or dismiss it; it is never shown again."""
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
    return {"status": "dismissed" if data.dismiss else "recorded", "feedback_id": response.feedback_id}


@post(
    "/examples/import",
    status_code=200,
    tags=[TAG],
    summary="Store a file of labelled examples",
    request_max_body_size=MAX_IMPORT_BYTES,
)
async def import_examples(
    request: Request[Any, Any, Any], peers: NamedDependency[Peers], file_format: FileFormat = "jsonl"
) -> Response[schemas.ImportAnswer]:
    """Store every example of the body, JSON lines or CSV with the columns text and labels ("a|b"); none if one is bad.

    422 names each bad line.
    """
    asked = checked_format(file_format)

    async def pieces() -> AsyncIterator[trainer_pb2.ImportExamplesRequest]:
        async for chunk in request.stream():
            for start in range(0, len(chunk), PIECE_BYTES):
                yield trainer_pb2.ImportExamplesRequest(data=chunk[start : start + PIECE_BYTES], format=asked)

    response = await peers.trainer.ImportExamples(pieces(), timeout=peers.promotion_seconds)
    answer = schemas.ImportAnswer(
        status="refused" if response.errors else "imported",
        imported=response.imported,
        errors=[answers.plain(each) for each in response.errors],
    )
    return Response(answer, status_code=422 if response.errors else 200)


@get("/examples/export", tags=[TAG], summary="Every example that people gave, as a file")
async def export_examples(peers: NamedDependency[Peers], file_format: FileFormat = "jsonl") -> Stream:
    """Stream feedback, imports and reviews, oldest first, in a format that the import accepts."""
    asked = checked_format(file_format)
    call = peers.trainer.ExportExamples(
        trainer_pb2.ExportExamplesRequest(format=asked), timeout=peers.promotion_seconds
    )

    async def pieces() -> AsyncIterator[bytes]:
        async for response in call:
            yield response.data

    name = f"attachment; filename=examples.{file_format}"
    return Stream(pieces, media_type=_MEDIA_TYPES[file_format], headers={"content-disposition": name})


@delete("/users/{user_id:str}/data", status_code=200, tags=[TAG], summary="Forget a person")
async def delete_user_data(user_id: FromPath[str], peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Delete the person's feedback, the queries it refers to, and snapshots that hold them."""
    response = await peers.trainer.DeleteUserData(
        trainer_pb2.DeleteUserDataRequest(user_id=user_id), timeout=peers.promotion_seconds
    )
    return {"status": "deleted", **answers.plain(response)}


def checked_format(file_format: str) -> "trainer_pb2.ExamplesFormat.ValueType":
    """Return the format of a name.

    Raises:
        InvalidBody: it is neither jsonl nor csv.

    """
    if file_format not in _FORMATS:
        raise InvalidBody("file_format", "use jsonl or csv")
    return _FORMATS[file_format]
