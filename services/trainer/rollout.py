"""Tells every inference replica to serve a version."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc

RELOAD_DEADLINE_SECONDS = 10.0
ATTEMPTS = 10
PAUSE_SECONDS = 0.5

# The replica looked at the version and said no; everything else means it was not reached.
_REFUSALS = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
}
_PASSING = {grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE}


@dataclass(frozen=True)
class ReplicaResult:
    """What one replica did: serves `version`, refused it, or was not reached."""

    target: str
    version: int
    problem: str = ""
    refused: bool = False

    @property
    def swapped(self) -> bool:
        """Whether it serves the version."""
        return not self.problem


async def resolve(targets: Sequence[str]) -> list[str]:
    """Return one address per replica: `dns:///name:port` becomes every address the name has."""
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
        addresses.extend(sorted({f"[{each[4][0]}]:{port}" if ":" in str(each[4][0]) else f"{each[4][0]}:{port}"
                                 for each in found}))  # fmt: skip
    return addresses


async def reload_everywhere(targets: Sequence[str], version: int, generation: int) -> list[ReplicaResult]:
    """Ask the replicas one after the other; stop at the first that refuses."""
    results: list[ReplicaResult] = []
    for address in await resolve(targets):
        results.append(await reload_one(address, version, generation))
        if results[-1].refused:
            break
    return results


async def reload_one(address: str, version: int, generation: int) -> ReplicaResult:
    """Ask one replica; while it is busy or not up yet, ask again for a few seconds."""
    request = inference_pb2.ReloadModelRequest(version=version, generation=generation)
    problem = ""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for attempt in range(ATTEMPTS):
            try:
                response = await stub.ReloadModel(request, timeout=RELOAD_DEADLINE_SECONDS)
                return ReplicaResult(address, response.version)
            except grpc.aio.AioRpcError as error:
                problem = error.details() or error.code().name
                if error.code() in _REFUSALS:
                    return ReplicaResult(address, 0, problem, refused=True)
                if error.code() not in _PASSING or attempt == ATTEMPTS - 1:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
    return ReplicaResult(address, 0, f"not reached: {problem}")
