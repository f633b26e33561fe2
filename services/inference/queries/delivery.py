"""Delivers query records to the trainer: one stream for each trainer that collects.

A stream sends a batch, waits until the trainer has acknowledged it, and sends the next one. So it is never ahead by
more than a batch. While there is nothing to send, it waits for the writer, on the event loop and without a thread.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from moodfood.inference.v1 import inference_pb2 as pb

from services.inference.queries.query_writer import QueryWriter
from services.inference.queries.spool import Batch

T = TypeVar("T")


class Deliveries:
    """The streams of this replica. Make and use it on the event loop."""

    def __init__(self, writer: QueryWriter) -> None:
        self._writer = writer
        self._ended = asyncio.get_running_loop().create_future()

    async def deliver(self, requests: AsyncIterator[pb.CollectQueryRecordsRequest]) -> AsyncIterator[Batch]:
        """Yield batches until the caller or `end` ends the stream. Raises StorageFailed."""
        request = await self._next(requests)
        while request is not None:
            self._writer.acknowledge(request.spool_id, request.acknowledged)
            batch = await self._unless_ended(asyncio.wrap_future(self._writer.collect()))
            if batch is None:
                return
            yield batch
            request = await self._next(requests)
            while request is not None and not _acknowledges(request, batch):
                self._writer.acknowledge(request.spool_id, request.acknowledged)
                request = await self._next(requests)

    def end(self) -> None:
        """End every stream now, and those that begin later at once. They would hold up a graceful stop."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def _next(
        self, requests: AsyncIterator[pb.CollectQueryRecordsRequest]
    ) -> pb.CollectQueryRecordsRequest | None:
        return await self._unless_ended(anext(requests, None))

    async def _unless_ended(self, awaited: Awaitable[T]) -> T | None:
        task = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait({task, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        return task.result() if task.done() and not task.cancelled() else None


def _acknowledges(request: pb.CollectQueryRecordsRequest, batch: Batch) -> bool:
    return request.spool_id == batch.spool_id and request.acknowledged >= batch.position
