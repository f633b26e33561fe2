"""Collects the query records that wait in the spools of the replicas.

The trainer pulls: it knows the replicas, and inference calls nobody. One stream for every replica gives batches. A
batch is acknowledged only after the store has kept it together with its position. So whatever breaks, nothing is lost
and nothing is stored twice, also when several trainers collect. Beside the stream, the replica is asked to delete what
was erased while it was away or could not delete it; until it has, it is asked again.
"""

import asyncio
from collections.abc import Sequence

import grpc
import structlog
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc

from services.trainer.errors import StorageFailed
from services.trainer.feedback.erasures import Erasures
from services.trainer.feedback.query_store import QueryStore
from services.trainer.rollout.replica_erasure import catch_up
from services.trainer.rollout.replicas import resolve

RESOLVE_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
# A stream on which nothing has gone wrong for this time works, even if there was nothing to collect.
WORKS_SECONDS = 1.0
STATUS_SECONDS = 5.0
# How often to look whether a replica still has to delete something.
CATCH_UP_SECONDS = 60.0

_OPTIONS = (
    # Every attempt connects anew, so this module decides how long to wait and not gRPC.
    ("grpc.use_local_subchannel_pool", 1),
    # A machine that vanished says nothing. Without pings a quiet stream to it would stay open for ever.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_log = structlog.get_logger()


class QueryCollector:
    """Keeps one stream to every replica. Use it on the event loop."""

    def __init__(self, targets: Sequence[str], store: QueryStore, erasures: Erasures) -> None:
        self._targets = targets
        self._store = store
        self._erasures = erasures
        self._wanted: set[str] = set()

    async def run(self) -> None:
        """Collect until the task is cancelled. Replicas may come and go."""
        streams: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                # The stream to a replica that is not named any more goes on until it breaks: the replica may be
                # ending, and a name may fail to resolve for a moment.
                self._wanted = set(await resolve(self._targets))
                streams = {address: stream for address, stream in streams.items() if not stream.done()}
                for address in self._wanted - streams.keys():
                    streams[address] = asyncio.create_task(self._follow(address))
                await asyncio.sleep(RESOLVE_SECONDS)
        finally:
            for stream in streams.values():
                stream.cancel()
            await asyncio.gather(*streams.values(), return_exceptions=True)

    async def _follow(self, address: str) -> None:
        """Collect from a replica while it is named; connect again whenever the stream breaks."""
        stream, pause = _Stream(address, self._store, self._erasures), FIRST_PAUSE_SECONDS
        while address in self._wanted:
            try:
                await stream.collect()
                stream.report("the replica ended the stream")
            except grpc.aio.AioRpcError as error:
                stream.report(error.details() or error.code().name)
            except StorageFailed as error:
                stream.report(str(error))
            except Exception as error:
                stream.report("an unexpected error", error)
            pause = FIRST_PAUSE_SECONDS if stream.works else min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)


class _Stream:
    """The stream to one replica, with all its attempts. `works` says whether the last one did."""

    def __init__(self, address: str, store: QueryStore, erasures: Erasures) -> None:
        self.works = False
        self._address = address
        self._store = store
        self._erasures = erasures
        self._dropped: dict[str, int] = {}
        self._told: str | None = None

    async def collect(self) -> None:
        """Keep batches until the stream ends. Raises AioRpcError and StorageFailed."""
        self.works, stored = False, dict[str, int]()
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.CollectQueryRecords()
            await call.write(pb.CollectQueryRecordsRequest())
            await call.initial_metadata()
            works = asyncio.get_running_loop().call_later(WORKS_SECONDS, self._report_works)
            catching_up = asyncio.create_task(self._catch_up_again_and_again(stub))
            try:
                async for batch in call:
                    spool_id = batch.spool_id
                    if spool_id not in stored:
                        stored[spool_id] = await asyncio.to_thread(self._store.position_of, spool_id)
                    stored[spool_id] = await self._keep(batch, stored[spool_id])
                    self._report_works()
                    self._report_dropped(batch)
                    if call.done():
                        break
                    await call.write(pb.CollectQueryRecordsRequest(spool_id=spool_id, acknowledged=stored[spool_id]))
            finally:
                works.cancel()
                catching_up.cancel()

    async def _catch_up_again_and_again(self, stub: "inference_pb2_grpc.InferenceServiceAsyncStub") -> None:
        told = ""
        while True:
            try:
                state = await stub.GetQueryLogStats(pb.GetQueryLogStatsRequest(), timeout=STATUS_SECONDS)
                await catch_up(stub, state, self._erasures)
                told = ""
            except (grpc.aio.AioRpcError, StorageFailed) as error:
                problem = error.details() or error.code().name if isinstance(error, grpc.RpcError) else str(error)
                if problem != told:
                    _log.warning("a replica still has erased queries", replica=self._address, problem=problem)
                told = problem
            except Exception as error:
                _log.error("a replica still has erased queries", replica=self._address, exc_info=error)
            await asyncio.sleep(CATCH_UP_SECONDS)

    async def _keep(self, batch: pb.CollectQueryRecordsResponse, stored: int) -> int:
        """Store what is new in a batch. Returns the position up to which everything is stored now."""
        if batch.position > stored:
            await asyncio.to_thread(self._store.keep, batch.spool_id, batch.position, batch.records)
        return max(stored, batch.position)

    def report(self, problem: str, unexpected: Exception | None = None) -> None:
        """Tell operators why queries are not collected; once, and not for every attempt."""
        if problem != self._told:
            _log.warning("cannot collect queries", replica=self._address, problem=problem, exc_info=unexpected)
        self._told = problem

    def _report_works(self) -> None:
        if self._told != "":
            _log.info("collecting queries", replica=self._address)
        self.works, self._told = True, ""

    def _report_dropped(self, batch: pb.CollectQueryRecordsResponse) -> None:
        more = batch.dropped - self._dropped.get(batch.spool_id, 0)
        if more > 0:
            _log.warning("queries were lost before they were collected", replica=self._address, queries=more)
        self._dropped[batch.spool_id] = batch.dropped
