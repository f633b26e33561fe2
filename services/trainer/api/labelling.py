"""The calls of TrainerService about labels: feedback, import, export, review and deletion."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from moodfood.trainer.v1 import trainer_pb2 as pb
from moodfood.trainer.v1 import trainer_pb2_grpc

from services.trainer.api.checks import check_name
from services.trainer.dataset.files import Format, encode_rows
from services.trainer.errors import InvalidRequest
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.intake import MAX_FILE_BYTES, Intake
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import FeedbackStore

MAX_ITEMS = 200
DEFAULT_ITEMS = 20
EXPORT_LINES = 500

_FORMATS = {
    pb.EXAMPLES_FORMAT_UNSPECIFIED: Format.JSON_LINES,
    pb.EXAMPLES_FORMAT_JSON_LINES: Format.JSON_LINES,
    pb.EXAMPLES_FORMAT_CSV: Format.CSV,
}
_REASONS = {
    pb.REVIEW_REASON_UNCERTAIN: Reason.UNCERTAIN,
    pb.REVIEW_REASON_DISAGREEING: Reason.DISAGREEING,
    pb.REVIEW_REASON_DRIFTING: Reason.UNFAMILIAR,
    pb.REVIEW_REASON_SUSPECTED_NOISE: Reason.SUSPECTED_NOISE,
}
_REASON_VALUES = {reason: value for value, reason in _REASONS.items()}


@dataclass(frozen=True)
class Labelling:
    """The objects that the calls about labels need.

    Attributes:
        intake: checks and stores feedback.
        feedback: reads the stored feedback.
        queue: lists the review items.
        erasure: deletes what people said.

    """

    intake: Intake
    feedback: FeedbackStore
    queue: ReviewQueue
    erasure: Erasure


class LabellingServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """The calls of `moodfood.trainer.v1.TrainerService` about labels. TrainerServicer adds the others."""

    def __init__(self, labelling: Labelling) -> None:
        self._labelling = labelling

    async def SubmitFeedback(self, request: pb.SubmitFeedbackRequest, context: Any) -> pb.SubmitFeedbackResponse:
        check_name("user_id", request.user_id)
        check_name("request_id", request.request_id)
        feedback_id = await self._labelling.intake.add(
            request.query_id, request.text, request.labels, request.user_id, request.request_id
        )
        return pb.SubmitFeedbackResponse(feedback_id=feedback_id)

    async def ImportExamples(
        self, request_iterator: AsyncIterator[pb.ImportExamplesRequest], context: Any
    ) -> pb.ImportExamplesResponse:
        first = await anext(aiter(request_iterator), None)
        if first is not None and first.data:
            content = await _read_content(first, request_iterator)
            imported, errors = await self._labelling.intake.add_file(content, _read_format(first.format))
        else:
            imported, errors = await self._labelling.intake.add_all(_read_rows(first, request_iterator))
        return pb.ImportExamplesResponse(
            imported=imported,
            errors=[pb.ImportError(line=bad.line, field=bad.field, description=bad.problem) for bad in errors],
        )

    async def ExportExamples(
        self, request: pb.ExportExamplesRequest, context: Any
    ) -> AsyncIterator[pb.ExportExamplesResponse]:
        file_format = _read_format(request.format)
        examples = self._labelling.feedback.export()
        lines = encode_rows(((example.text, example.labels, example.source) for example in examples), file_format)
        while piece := await asyncio.to_thread(lambda: b"".join(islice(lines, EXPORT_LINES))):
            yield pb.ExportExamplesResponse(data=piece)

    async def ListReviewItems(self, request: pb.ListReviewItemsRequest, context: Any) -> pb.ListReviewItemsResponse:
        if not 0 <= request.page_size <= MAX_ITEMS:
            raise InvalidRequest(
                "page_size", f"is {request.page_size}; send 1 to {MAX_ITEMS}, or 0 for {DEFAULT_ITEMS}"
            )
        unknown = [reason for reason in request.reasons if reason not in _REASONS]
        if unknown:
            raise InvalidRequest(
                "reasons", "are not all valid; send uncertain, disagreeing, drifting or suspected_noise"
            )
        reasons = {_REASONS[reason] for reason in request.reasons}
        items, waiting = await asyncio.to_thread(
            self._labelling.queue.items, reasons, request.page_size or DEFAULT_ITEMS
        )
        return pb.ListReviewItemsResponse(items=[review_item(item) for item in items], waiting=waiting)

    async def ResolveReviewItem(
        self, request: pb.ResolveReviewItemRequest, context: Any
    ) -> pb.ResolveReviewItemResponse:
        check_name("user_id", request.user_id)
        feedback_id = await self._labelling.intake.resolve(
            request.item_id,
            request.labels,
            out_of_scope=request.out_of_scope,
            dismiss=request.dismiss,
            user_id=request.user_id,
        )
        return pb.ResolveReviewItemResponse(feedback_id=feedback_id)

    async def DeleteUserData(self, request: pb.DeleteUserDataRequest, context: Any) -> pb.DeleteUserDataResponse:
        if not request.user_id:
            raise InvalidRequest("user_id", "is missing; send the user_id of the person")
        check_name("user_id", request.user_id)
        erased = await self._labelling.erasure.forget_person(request.user_id)
        return pb.DeleteUserDataResponse(**asdict(erased))


def review_item(item: ReviewItem) -> pb.ReviewItem:
    """Translate a review item into its message."""
    return pb.ReviewItem(
        item_id=item.item_id,
        text=item.text,
        reason=_REASON_VALUES[item.reason],
        score=item.score,
        believed=item.believed,
        confidence=item.confidence,
        labels=item.labels,
        query_id=item.query_id,
    )


def _read_format(asked: "pb.ExamplesFormat.ValueType") -> Format:
    if asked not in _FORMATS:
        raise InvalidRequest("format", "is not valid; send json_lines or csv")
    return _FORMATS[asked]


async def _read_content(first: pb.ImportExamplesRequest, rest: AsyncIterator[pb.ImportExamplesRequest]) -> bytes:
    content = bytearray(first.data)
    async for request in rest:
        if request.text or request.labels:
            raise InvalidRequest("data", "a stream holds pieces of a file or single examples, not both")
        content += request.data
        if len(content) > MAX_FILE_BYTES:
            raise InvalidRequest("data", f"has over {MAX_FILE_BYTES // 2**20} MiB; split the file and import the parts")
    return bytes(content)


async def _read_rows(
    first: pb.ImportExamplesRequest | None, rest: AsyncIterator[pb.ImportExamplesRequest]
) -> AsyncIterator[tuple[str, list[str]]]:
    if first is not None:
        yield first.text, list(first.labels)
    async for request in rest:
        if request.data:
            raise InvalidRequest("data", "a stream holds pieces of a file or single examples, not both")
        yield request.text, list(request.labels)
