"""Brings a version to every inference replica in two phases: prepare on all of them, then commit on all of them.

All replicas are asked at the same time. A replica that checked the version and rejected it has refused. Any other error
means that the replica was not reached; it follows the alias by itself when it is back.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

import grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.trainer.v1.trainer_pb2 import ReplicaOutcome

from services.trainer.errors import ReplicaRejected

# Loading takes tens of milliseconds, but a slow bucket may take long to give the version. A replica that hangs delays a
# promotion by this time, once. A rollback does not wait so long: the replicas still have the version, as a rule.
PREPARE_DEADLINE_SECONDS = 30.0
HURRIED_DEADLINE_SECONDS = 5.0
COMMIT_DEADLINE_SECONDS = 1.5
STATUS_DEADLINE_SECONDS = 1.0
BUSY_PAUSE_SECONDS = 0.2
# A replica that is busy with another reload has finished after so many attempts.
BUSY_ATTEMPTS = 25
# A promotion asks a replica that does not answer yet this many times, because it may be starting. A rollback asks once.
STARTING_ATTEMPTS = 10

_REFUSALS = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
}
_DOING = {
    inference_pb2.RELOAD_PHASE_PREPARE: "while preparing",
    inference_pb2.RELOAD_PHASE_COMMIT: "while committing",
}


@dataclass(frozen=True)
class ReplicaResult:
    """What one replica did last: it took the version, refused it, or was not reached.

    `version` is 0 when it is not known. `problem` is empty when the replica took the version.
    """

    target: str
    version: int
    problem: str = ""
    refused: bool = False

    @property
    def done(self) -> bool:
        """Whether the replica took the version."""
        return not self.problem

    @property
    def outcome(self) -> ReplicaOutcome:
        """The result as a message for callers."""
        return ReplicaOutcome(target=self.target, version=self.version, error=self.problem)


@dataclass(frozen=True)
class Replica:
    """The version that a replica serves, and the generation of the alias that it has followed."""

    target: str
    version: int
    generation: int

    def is_behind(self, version: int, generation: int) -> bool:
        """Say whether it serves another version than the one that it has to serve under its generation."""
        return self.generation == generation and self.version != version


async def resolve(targets: Sequence[str]) -> list[str]:
    """Return one address for each replica. `dns:///name:port` becomes all addresses of the name."""
    addresses: list[str] = []
    for target in targets:
        if not target.startswith("dns:///"):
            addresses.append(target)
            continue
        host, _, port = target.removeprefix("dns:///").rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            found = []
        hosts = sorted({str(address[4][0]) for address in found})
        addresses.extend(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts)
    return list(dict.fromkeys(addresses))


async def prepare(
    addresses: Sequence[str], version: int, generation: int, *, hurry: bool = False
) -> list[ReplicaResult]:
    """Ask every replica to load the version and keep it in memory.

    With `hurry`, wait for no replica that starts, and for others at most HURRIED_DEADLINE_SECONDS.
    """
    request = inference_pb2.ReloadModelRequest(
        version=version, generation=generation, phase=inference_pb2.RELOAD_PHASE_PREPARE
    )
    if hurry:
        return await _ask_all(addresses, request, HURRIED_DEADLINE_SECONDS, 1)
    return await _ask_all(addresses, request, PREPARE_DEADLINE_SECONDS, STARTING_ATTEMPTS)


async def commit(addresses: Sequence[str], version: int, generation: int) -> list[ReplicaResult]:
    """Ask every replica to swap to the version."""
    request = inference_pb2.ReloadModelRequest(
        version=version, generation=generation, phase=inference_pb2.RELOAD_PHASE_COMMIT
    )
    return await _ask_all(addresses, request, COMMIT_DEADLINE_SECONDS, 1)


async def ask_statuses(addresses: Sequence[str]) -> list[Replica]:
    """Return the status of every replica that answers."""
    found = await asyncio.gather(*(_status(address) for address in addresses))
    return [replica for replica in found if replica is not None]


def merge_results(prepared: Sequence[ReplicaResult], committed: Sequence[ReplicaResult]) -> tuple[ReplicaResult, ...]:
    """Return the last result of each replica: of its commit, or of its prepare if it was not asked to commit."""
    last = {result.target: result for result in committed}
    return tuple(last.get(result.target, result) for result in prepared)


async def _ask_all(
    addresses: Sequence[str], request: inference_pb2.ReloadModelRequest, seconds: float, attempts: int
) -> list[ReplicaResult]:
    return list(await asyncio.gather(*(_ask(address, request, seconds, attempts) for address in addresses)))


async def _ask(address: str, request: inference_pb2.ReloadModelRequest, seconds: float, attempts: int) -> ReplicaResult:
    """Ask one replica. Retry while it is busy, and at most `attempts` times while it cannot be reached."""
    left = {grpc.StatusCode.ABORTED: BUSY_ATTEMPTS, grpc.StatusCode.UNAVAILABLE: attempts}
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        while True:
            try:
                response = await stub.ReloadModel(request, timeout=seconds)
                return ReplicaResult(address, response.version)
            except grpc.aio.AioRpcError as error:
                code, problem = error.code(), error.details() or error.code().name
            if code in _REFUSALS:
                return ReplicaResult(address, 0, f"refused {_DOING[request.phase]}: {problem}", refused=True)
            left[code] = left.get(code, 1) - 1
            if left[code] <= 0:
                return ReplicaResult(address, 0, f"not reached {_DOING[request.phase]}: {problem}")
            await asyncio.sleep(BUSY_PAUSE_SECONDS)


async def _status(address: str) -> Replica | None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            answer = await stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=STATUS_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError:
            return None
    return Replica(address, answer.version, answer.generation)


def mark_sent_back(results: Sequence[ReplicaResult], version: int) -> tuple[ReplicaResult, ...]:
    """Return the results; a replica that had swapped is now said to be back on the given version."""
    return tuple(
        replace(result, version=version, problem="swapped, then went back because another replica refused")
        if result.done
        else result
        for result in results
    )


def raise_if_refused(asked: Sequence[ReplicaResult], replicas: Sequence[ReplicaResult]) -> None:
    """Raise ReplicaRejected for the first that refused of those that were asked; it tells what all replicas did."""
    refused = next((result for result in asked if result.refused), None)
    if refused is not None:
        raise ReplicaRejected(refused.target, refused.problem, [result.outcome for result in replicas])
