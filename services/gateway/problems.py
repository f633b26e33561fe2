"""Turns every error into problem details: gRPC status to HTTP once, here. Internals never reach the caller.

Only texts that a service wrote for callers are passed on: those with an ErrorInfo of domain "moodfood". Everything else
(an address that cannot be reached, a bug) becomes a fixed sentence, and the log has the details.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import grpc
import msgspec
import structlog
from google.rpc import error_details_pb2, status_pb2
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta, Struct

from services.gateway.refusals import InvalidBody, explain

MEDIA_TYPE = "application/problem+json"
DETAILS_KEY = "grpc-status-details-bin"
FIELD_NAMES = "field_names"

_HTTP_OF = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_FIXED_TEXTS = {
    429: "the service is overloaded; try again in a moment",
    499: "the call was cancelled",
    503: "a service behind the gateway cannot be reached; try again in a moment",
    504: "a service behind the gateway did not answer in time; try again",
}
_INTERNAL_TEXT = "internal error; the gateway's log has the details"

# What the API page says of each status that a route can give.
DESCRIPTIONS = {
    400: "A field or parameter is missing, unknown or has a value that is not allowed; `errors` names it.",
    404: "What the request names does not exist.",
    409: "Not possible now, for example because something else is going on; `reason` and `detail` say why.",
    413: "The body is too large.",
    429: "Too many calls at once; try again in a moment.",
    499: "The call was cancelled before it was answered, for example because a service is stopping; try again.",
    500: "A bug; the log of the gateway has the details.",
    503: "A service behind the gateway cannot be reached or cannot do its work now; try again in a moment.",
    504: "A service behind the gateway did not answer in time; try again.",
}
# Every route that calls a service can give these.
_OF_EVERY_CALL = (429, 499, 500, 503, 504)

_log = structlog.get_logger()


class FieldProblem(Struct):
    """A field at fault."""

    field: Annotated[str, Meta(examples=["user_context.dietary_restriction"])]
    description: Annotated[str, Meta(examples=["is unknown; did you mean 'dietary_restrictions'?"])]


class Problem(Struct, omit_defaults=True):
    """Problem details as in RFC 9457. Fields that are empty are left out."""

    title: str
    status: int
    detail: Annotated[str, Meta(description="One sentence for a person")]
    reason: Annotated[str, Meta(description="For a program; it does not change", examples=["INVALID_BODY"])]
    type: str = "about:blank"
    errors: Annotated[list[FieldProblem], Meta(description="The fields at fault")] = msgspec.field(default_factory=list)
    operation: Annotated[str, Meta(description="The training run that is going on")] = ""
    metadata: Annotated[dict[str, str], Meta(description="More facts for a program")] = msgspec.field(
        default_factory=dict
    )


def describe(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the problems that a route can give, for the API page: these statuses and those of every call."""
    return {
        status: ResponseSpec(Problem, generate_examples=False, description=DESCRIPTIONS[status], media_type=MEDIA_TYPE)
        for status in (*statuses, *_OF_EVERY_CALL)
    }


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Return a problem as a response."""
    return Response(
        msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def refuse_body(detail: str, errors: list[FieldProblem] | None = None) -> Response[bytes]:
    """Return a 400."""
    return problem_response(
        Problem(title="Bad Request", status=400, detail=detail, reason="INVALID_BODY", errors=errors or [])
    )


def answer_invalid_body(_request: Request[Any, Any, Any], error: InvalidBody) -> Response[bytes]:
    """Answer a body or a query parameter that the gateway itself refuses."""
    return refuse_body(str(error), [FieldProblem(error.field, error.problem)])


def answer_undecodable_body(_request: Request[Any, Any, Any], _error: UnicodeDecodeError) -> Response[bytes]:
    """Answer a body that is not UTF-8."""
    return refuse_body("the body is not UTF-8")


def answer_nested_body(_request: Request[Any, Any, Any], _error: RecursionError) -> Response[bytes]:
    """Answer a body of very many arrays or objects within one another. Nothing but its parser recurses that deep."""
    return refuse_body("the body is nested too deeply")


def answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what Litestar refuses: unknown paths, methods, bodies that are no JSON or have the wrong types."""
    status = error.status_code
    if status >= 500:
        return answer_unexpected(request, error)
    complaints = error.extra if isinstance(error, ValidationException) and isinstance(error.extra, list) else []
    errors = [FieldProblem(**explain(request.route_handler, complaint)) for complaint in complaints]
    detail = _join(errors) or error.detail
    if status == 400:
        return refuse_body(detail, errors)
    if status == 413:
        detail = f"the body is larger than {request.route_handler.resolve_request_max_body_size()} bytes"
    names = HTTPStatus(status)
    return problem_response(Problem(names.phrase, status, detail, names.name), error.headers)


def answer_peer_error(request: Request[Any, Any, Any], error: grpc.aio.AioRpcError) -> Response[bytes]:
    """Answer what a service behind the gateway refused or failed at."""
    status = _HTTP_OF.get(error.code(), 500)
    info, violations = _details(error)
    if info is None:
        _log.warning("peer failed", code=error.code().name, details=error.details())
        detail, reason = _FIXED_TEXTS.get(status, _INTERNAL_TEXT), error.code().name
    else:
        detail, reason = error.details() or "", info.reason
    metadata = dict(info.metadata) if info else {}
    names: Mapping[str, str] = request.route_handler.opt.get(FIELD_NAMES, {})
    errors = [FieldProblem(_rename(found.field, names), found.description) for found in violations]
    return problem_response(
        Problem(
            title=HTTPStatus(status).phrase if status != 499 else "Client Closed Request",
            status=status,
            detail=_join(errors) or detail,
            reason=reason,
            errors=errors,
            operation=metadata.pop("operation", ""),
            metadata=metadata,
        )
    )


def answer_unexpected(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a bug."""
    _log.error("unexpected error", exc_info=error)
    return problem_response(
        Problem(title="Internal Server Error", status=500, detail=_INTERNAL_TEXT, reason="INTERNAL")
    )


def _details(
    error: grpc.aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, list[Any]]:
    packed = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if not isinstance(packed, bytes):
        return None, []
    info: error_details_pb2.ErrorInfo | None = None
    violations: list[Any] = []
    for detail in status_pb2.Status.FromString(packed).details:
        found, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(found):
            info = found
        elif detail.Unpack(request):
            violations.extend(request.field_violations)
    return info, violations


def _join(errors: list[FieldProblem]) -> str:
    return "; ".join(f"{error.field}: {error.description}" for error in errors)


def _rename(field: str, names: Mapping[str, str]) -> str:
    """Return the field's name in the REST body: its first part may be called otherwise there."""
    first, dot, rest = field.partition(".")
    return f"{names.get(first, first)}{dot}{rest}"
