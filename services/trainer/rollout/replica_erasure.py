"""Lets the replicas delete query records from their query logs and spools.

All replicas are asked when something is erased. One that was away catches up when it is back: the database knows, for
each spool, the last erasure that its replica has carried out.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import grpc
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc

from services.trainer.feedback.erasure import ReplicasErased
from services.trainer.feedback.erasures import MOST_IDS, Erasures
from services.trainer.rollout.replicas import resolve

# Shorter than callers wait, so that they read that a replica hangs. It is asked again later.
FORGET_DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class ForgetOutcome:
    """What a replica deleted. `problem` is empty when it deleted everything; else ask it again.

    `log_lines` and `spooled` are the numbers of records deleted from its query log and from its spools.
    """

    target: str
    log_lines: int = 0
    spooled: int = 0
    problem: str = ""


async def forget(
    targets: Sequence[str], query_ids: Collection[str], before: datetime | None = None
) -> list[ForgetOutcome]:
    """Let every replica delete the records of some queries, and those that were answered before a time in UTC.

    All replicas are asked at the same time. There is one outcome for every replica, and one for a target without any.
    """
    ids = list(query_ids)
    starts = range(0, len(ids), MOST_IDS)
    requests = [pb.ForgetQueryRecordsRequest(query_ids=ids[start : start + MOST_IDS]) for start in starts]
    if before is not None:
        requests.append(pb.ForgetQueryRecordsRequest())
        requests[-1].before.FromDatetime(before)
    named = [(target, await resolve([target])) for target in targets]
    missing = [ForgetOutcome(target, problem="no replica has this name") for target, found in named if not found]
    addresses = dict.fromkeys(address for _, found in named for address in found)
    return [*await asyncio.gather(*(_forget(address, requests) for address in addresses)), *missing]


async def _forget(address: str, requests: Sequence[pb.ForgetQueryRecordsRequest]) -> ForgetOutcome:
    outcome = ForgetOutcome(address)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for request in requests:
            try:
                answer = await stub.ForgetQueryRecords(request, timeout=FORGET_DEADLINE_SECONDS)
            except grpc.aio.AioRpcError as error:
                return replace(outcome, problem=error.details() or error.code().name)
            log_lines, spooled = outcome.log_lines + answer.log_lines, outcome.spooled + answer.spooled
            outcome = replace(outcome, log_lines=log_lines, spooled=spooled)
    return outcome


async def erase_on_replicas(
    targets: Sequence[str], query_ids: Sequence[str], before: datetime | None
) -> ReplicasErased:
    """Do what `forget` does, and return the sums."""
    outcomes = await forget(targets, query_ids, before)
    return ReplicasErased(
        sum(outcome.log_lines for outcome in outcomes),
        sum(outcome.spooled for outcome in outcomes),
        sum(bool(outcome.problem) for outcome in outcomes),
    )


async def catch_up(
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub", state: pb.GetQueryLogStatsResponse, erasures: Erasures
) -> None:
    """Let a replica delete what was erased while it was away.

    Args:
        stub: the replica.
        state: of its query log and its spool.
        erasures: what was erased, and which spools are free of it.

    Raises:
        AioRpcError: the replica cannot delete it now.
        StorageFailed: the database cannot be read or written.

    """
    spool_id = state.spool_id
    if not spool_id:
        return
    last = await asyncio.to_thread(erasures.last)
    done = await asyncio.to_thread(erasures.erased_by, spool_id)
    if done is None and (state.file_bytes or state.rotated_files):
        # The spool is new and the query log may not be: somebody may have deleted the spool before this one.
        done = 0
    if done is not None:
        for erasure in await asyncio.to_thread(lambda: list(erasures.erasures_after(done))):
            request = pb.ForgetQueryRecordsRequest(query_ids=erasure.query_ids)
            if erasure.before:
                request.before.FromDatetime(datetime.fromtimestamp(erasure.before / 1e6, UTC))
            await stub.ForgetQueryRecords(request, timeout=FORGET_DEADLINE_SECONDS)
    if done is None or done < last:
        await asyncio.to_thread(erasures.mark_erased, spool_id, last)
