"""Which status an exception becomes, through a real server and a real client."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from moodfood.trainer.v1 import scheduler_pb2_grpc

from services.transport.errors import DETAILS_KEY, ErrorTable, Row
from tests.fakes import Partial, running

pytestmark = pytest.mark.anyio


class Closed(Exception):
    """Known to the table."""


class ClosedOnSunday(Closed):
    """Known through its base class."""


TABLE: ErrorTable = {
    Closed: Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "CLOSED",
        facts=lambda error: {"day": str(error)},
        violations=lambda error: {"day": "is no working day"},
    )
}


class Scheduler(Partial):
    """Raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def GetSchedule(self, request: Any, context: Any) -> None:
        raise self.error


async def status_after(error: Exception, data: bytes = b"") -> Any:
    add = scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server
    async with running(Scheduler(error), add, TABLE) as address, grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/moodfood.trainer.v1.SchedulerService/GetSchedule")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(data)
    trailers: Any = raised.value.trailing_metadata()
    return status_pb2.Status.FromString(dict(trailers)[DETAILS_KEY])


@pytest.mark.parametrize("error", [Closed("sunday"), ClosedOnSunday("sunday")])
async def test_an_exception_of_the_table_and_of_a_subclass_becomes_its_row(error: Exception) -> None:
    status = await status_after(error)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status.details[0].Unpack(info)
    status.details[1].Unpack(request)
    assert (status.code, status.message) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "sunday")
    assert (info.reason, dict(info.metadata)) == ("CLOSED", {"day": "sunday"})
    assert [(field.field, field.description) for field in request.field_violations] == [("day", "is no working day")]


async def test_an_unknown_exception_tells_the_caller_nothing_about_the_inside() -> None:
    status = await status_after(RuntimeError("password is 1234"))
    assert (status.code, status.message) == (
        grpc.StatusCode.INTERNAL.value[0],
        "internal error; the service's log has the details",
    )


async def test_bytes_that_are_not_the_message_of_the_method_are_an_invalid_argument() -> None:
    status = await status_after(RuntimeError("never raised"), b"\xff\xff\xff")
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "not a valid message" in status.message
