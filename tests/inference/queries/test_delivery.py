"""The streams to the trainer and the deletion of records, through a real server and a real client."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc

from tests.queries import Replica, make_query, replica

pytestmark = pytest.mark.anyio


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Replica]:
    async with replica(tmp_path) as running:
        yield running


@pytest.fixture
async def stub(served: Replica) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(served.address) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


async def begin(stub: Any) -> Any:
    """Begin a stream."""
    call = stub.CollectQueryRecords()
    await call.write(pb.CollectQueryRecordsRequest())
    return call


def acknowledge(batch: pb.CollectQueryRecordsResponse, position: int = 0) -> pb.CollectQueryRecordsRequest:
    return pb.CollectQueryRecordsRequest(spool_id=batch.spool_id, acknowledged=position or batch.position)


async def test_stream_sends_what_waits_and_the_next_batch_only_after_an_acknowledgement(
    served: Replica, stub: Any
) -> None:
    for n in range(1, 701):
        served.writer.add(make_query(f"q{n}"))
    call = await begin(stub)
    first = await call.read()
    # Neither a part of the batch, nor another spool, acknowledges it.
    await call.write(acknowledge(first, 10))
    await call.write(pb.CollectQueryRecordsRequest(spool_id="another", acknowledged=10_000))
    second = asyncio.ensure_future(call.read())
    while (await stub.GetQueryLogStats(pb.GetQueryLogStatsRequest())).spooled > 690:
        await asyncio.sleep(0.01)
    assert not second.done()
    await call.write(acknowledge(first))
    assert ((await second).position, len(second.result().records)) == (700, 700 - first.position)
    await call.write(acknowledge(second.result()))
    served.writer.add(make_query("q701"))
    third = await call.read()
    assert ([record.query_id for record in third.records], third.position, third.dropped) == (["q701"], 701, 0)


async def test_stream_that_broke_is_continued_by_the_next_one(served: Replica, stub: Any) -> None:
    served.writer.add(make_query("q1", "a rainy day"))
    call = await begin(stub)
    first = await call.read()
    call.cancel()
    again = await (await begin(stub)).read()
    assert first == again
    assert [(record.event, record.query_id, record.text) for record in again.records] == [
        ("query", "q1", "a rainy day")
    ]


@pytest.mark.parametrize("waiting", [0, 1])
async def test_stream_ends_at_once_when_the_replica_stops(served: Replica, stub: Any, waiting: int) -> None:
    for _ in range(waiting):
        served.writer.add(make_query("q"))
    call = await begin(stub)
    await call.initial_metadata()
    for _ in range(waiting):
        await call.read()
    served.servicer.end_streams()
    await asyncio.wait_for(served.server.stop(100.0), 30.0)
    assert await call.read() is grpc.aio.EOF


async def test_spool_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    async with replica(tmp_path) as served, grpc.aio.insecure_channel(served.address) as channel:
        call = await begin(inference_pb2_grpc.InferenceServiceStub(channel))
        with pytest.raises(grpc.aio.AioRpcError, match="cannot read the spool: File exists") as refusal:
            await call.read()
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_forgotten_queries_are_in_no_file_and_are_counted(served: Replica, stub: Any, tmp_path: Path) -> None:
    for query_id, year in (("q1", 2025), ("q2", 2025), ("q3", 2019)):
        served.writer.add(make_query(query_id, at=datetime(year, 1, 1, tzinfo=UTC).timestamp()))
    before = pb.ForgetQueryRecordsRequest(query_ids=["q1"])
    before.before.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))
    assert pb.ForgetQueryRecordsResponse(log_lines=2, spooled=2) == await stub.ForgetQueryRecords(before)
    batch = await (await begin(stub)).read()
    assert [record.query_id for record in batch.records] == ["q2"]
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [query_id in left for query_id in (b"q1", b"q2", b"q3")] == [False, True, False]


@pytest.mark.parametrize("ids", [[], ["q"] * 10_001])
async def test_forgetting_nothing_or_too_much_is_refused(stub: Any, ids: list[str]) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="query_ids") as refusal:
        await stub.ForgetQueryRecords(pb.ForgetQueryRecordsRequest(query_ids=ids))
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_request_of_a_stream_are_an_invalid_argument(served: Replica) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        call: Any = channel.stream_stream("/moodfood.inference.v1.InferenceService/CollectQueryRecords")()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="not a valid message") as refusal:
            await call.read()
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
