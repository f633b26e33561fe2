"""Turns the exceptions of a service into gRPC statuses, in one place.

A service gives a table from exception types to rows. The interceptor looks for the type of an exception, then for its
base classes. An exception that is in no row becomes INTERNAL with a fixed text; its traceback goes to the log and never
to the caller. A request that is not the message of its method becomes INVALID_ARGUMENT.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

ERROR_DOMAIN = "moodfood"
DETAILS_KEY = "grpc-status-details-bin"

_log = structlog.get_logger()


def _no_facts(_error: Exception) -> Mapping[str, str]:
    return {}


def _no_violations(_error: Exception) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Row:
    """What a caller is told about one type of exception.

    Attributes:
        code: gRPC status.
        reason: `google.rpc.ErrorInfo.reason`, in UPPER_SNAKE_CASE.
        facts: returns `ErrorInfo.metadata` for an exception.
        violations: returns the fields at fault and what is wrong with them.

    """

    code: grpc.StatusCode
    reason: str
    facts: Callable[[Any], Mapping[str, str]] = _no_facts
    violations: Callable[[Any], Mapping[str, str]] = _no_violations


ErrorTable = Mapping[type[Exception], Row]


class MalformedRequest(Exception):
    """A request is not the message that its method takes."""


_MALFORMED = Row(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
_UNEXPECTED = Row(grpc.StatusCode.INTERNAL, "INTERNAL")
_UNEXPECTED_TEXT = "internal error; the service's log has the details"


def status_of(error: Exception, table: ErrorTable) -> status_pb2.Status:
    """Return the rich status of an exception."""
    row = next((table[kind] for kind in type(error).__mro__ if kind in table), None)
    if isinstance(error, MalformedRequest):
        row = _MALFORMED
    if row is None:
        return _build_status(_UNEXPECTED, _UNEXPECTED_TEXT, {}, {})
    return _build_status(row, str(error), row.facts(error), row.violations(error))


def _build_status(row: Row, text: str, facts: Mapping[str, str], violations: Mapping[str, str]) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=ERROR_DOMAIN, metadata=facts)
    status = status_pb2.Status(code=code_pb2.Code.Value(row.code.name), message=text)
    status.details.append(_pack(info))
    if violations:
        request = error_details_pb2.BadRequest()
        for field, description in violations.items():
            request.field_violations.add(field=field, description=description)
        status.details.append(_pack(request))
    return status


def _pack(message: Any) -> any_pb2.Any:
    result = any_pb2.Any()
    result.Pack(message)
    return result


@dataclass(frozen=True)
class _Unparsed:
    problem: str


def _parse_or_keep_problem(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserializer(data) if deserializer else data
        except Exception as error:
            return _Unparsed(type(error).__name__)

    return parse


def _check(request: Any) -> Any:
    if isinstance(request, _Unparsed):
        raise MalformedRequest("the request is not a valid message of this method; check it against the proto")
    return request


async def _check_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _check(request)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a call whose handler raised an exception with the status of the exception."""

    def __init__(self, table: ErrorTable) -> None:
        self._table = table
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method's handler, once per method."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._wrap(handler, method)
        return self._handlers[method]

    def _wrap(self, handler: Any, method: str) -> Any:
        if method.startswith("/grpc."):
            return handler
        if handler.request_streaming and handler.response_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, self._wrap_streams(handler.stream_stream, method)
        elif handler.response_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, self._wrap_stream_out(handler.unary_stream, method)
        elif handler.request_streaming:
            make, behaviour = grpc.stream_unary_rpc_method_handler, self._wrap_stream_in(handler.stream_unary, method)
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, self._wrap_unary(handler.unary_unary, method)
        return make(behaviour, _parse_or_keep_problem(handler.request_deserializer), handler.response_serializer)

    def _wrap_unary(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            try:
                return await behaviour(_check(request), context)
            except Exception as error:
                await self._abort(error, context, method)

        return call

    def _wrap_stream_in(self, behaviour: Any, method: str) -> Any:
        async def call(requests: AsyncIterator[Any], context: Any) -> Any:
            try:
                return await behaviour(_check_stream(requests), context)
            except Exception as error:
                await self._abort(error, context, method)

        return call

    def _wrap_streams(self, behaviour: Any, method: str) -> Any:
        async def call(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            try:
                async for response in behaviour(_check_stream(requests), context):
                    yield response
            except Exception as error:
                await self._abort(error, context, method)

        return call

    def _wrap_stream_out(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for response in behaviour(_check(request), context):
                    yield response
            except Exception as error:
                await self._abort(error, context, method)

        return call

    async def _abort(self, error: Exception, context: Any, method: str) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        status = status_of(error, self._table)
        if status.code == code_pb2.INTERNAL:
            _log.error("unexpected error", method=method, exc_info=error)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
