"""Turns every error into problem details: gRPC status to HTTP once, here. Internals never reach the caller.

Only texts that a service wrote for callers are passed on: those with an ErrorInfo of domain "moodfood". Everything else
(an address that cannot be reached, a bug) becomes a fixed sentence, and the log has the details.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import grpc
import msgspec
import structlog
from google.rpc import error_details_pb2, status_pb2
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from services.gateway.schemas import Problem

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

_log = structlog.get_logger()


class InvalidBody(Exception):
    """The body says too much or too little; names the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def problem_response(problem: Problem) -> Response[bytes]:
    """Return a problem as a response."""
    return Response(msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE)


def from_invalid_body(_request: Request[Any, Any, Any], error: InvalidBody) -> Response[bytes]:
    """Answer a body that the gateway itself refuses."""
    return problem_response(
        Problem(
            title="Bad Request",
            status=400,
            detail=str(error),
            reason="INVALID_BODY",
            errors=[{"field": error.field, "description": error.problem}],
        )
    )


def from_undecodable_body(_request: Request[Any, Any, Any], _error: UnicodeDecodeError) -> Response[bytes]:
    """Answer a body that is not UTF-8."""
    return problem_response(
        Problem(title="Bad Request", status=400, detail="the body is not UTF-8", reason="INVALID_BODY")
    )


def from_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what Litestar refuses: unknown paths, methods, bodies that are no JSON or have the wrong types."""
    status = error.status_code
    errors = [
        {"field": str(each.get("key", "")), "description": str(each.get("message", ""))}
        for each in (error.extra if isinstance(error, ValidationException) and isinstance(error.extra, list) else [])
        if isinstance(each, dict)
    ]
    if status >= 500:
        return _internal(error)
    detail = "; ".join(f"{each['field']}: {each['description']}" for each in errors) or error.detail
    return problem_response(
        Problem(
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            reason="INVALID_BODY" if status == 400 else HTTPStatus(status).name,
            errors=errors,
        )
    )


def from_peer_error(request: Request[Any, Any, Any], error: grpc.aio.AioRpcError) -> Response[bytes]:
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
    errors = [{"field": _renamed(each.field, names), "description": each.description} for each in violations]
    return problem_response(
        Problem(
            title=HTTPStatus(status).phrase if status != 499 else "Client Closed Request",
            status=status,
            detail="; ".join(f"{each['field']}: {each['description']}" for each in errors) or detail,
            reason=reason,
            errors=errors,
            operation=metadata.pop("operation", ""),
            metadata=metadata,
        )
    )


def from_unexpected(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a bug."""
    return _internal(error)


def _internal(error: Exception) -> Response[bytes]:
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


def _renamed(field: str, names: Mapping[str, str]) -> str:
    """Return the field's name in the REST body: its first part may be called otherwise there."""
    first, dot, rest = field.partition(".")
    return f"{names.get(first, first)}{dot}{rest}"
