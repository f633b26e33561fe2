"""Rehearses a version before a replica loads it: a separate inference process must load it and answer as recorded.

The process uses a free port and has a memory limit. Like a replica, it starts with the champion. Then it reloads the
version and answers the recorded queries over gRPC, one by one. So this process, and not a replica, meets a version that
cannot be loaded, crashes, hangs, uses too much memory, is too slow or gives other answers. It writes its query log to a
folder that is deleted afterwards. It ends when the trainer ends.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.registry.registry import ModelRegistry
from services.transport.supervisor import SUPERVISOR_VARIABLE

START_SECONDS = 30.0
LOAD_SECONDS = 15.0
QUERY_SECONDS = 2.0
STOP_SECONDS = 3.0
POLL_SECONDS = 0.05
MAX_MEDIAN_SECONDS = 0.05
CONFIDENCE_TOLERANCE = 0.05
MEBIBYTE = 1024 * 1024
SERVE = (sys.executable, "-m", "services.inference")


@dataclass(frozen=True)
class RehearsalSetup:
    """How to start the inference process of a rehearsal.

    Attributes:
        environment: environment variables in addition to those of this process.
        memory_bytes: how much memory the process may allocate, and the limit for its peak resident size.
        command: the command that starts inference.

    """

    environment: Mapping[str, str]
    memory_bytes: int
    command: Sequence[str] = SERVE


# A function that rehearses the version of a manifest and returns every rule with its numbers.
Rehearse = Callable[[pb.Manifest], Coroutine[object, object, Sequence[pb.RuleResult]]]


async def ensure_rehearsed(registry: ModelRegistry, rehearse: Rehearse, version: int, by: str) -> None:
    """Rehearse a version and store the report, unless the version was rehearsed or has served before.

    A version that the gate refused is not rehearsed.

    Raises:
        VersionRefused: the gate or the rehearsal refused it. A failed rehearsal is recorded in the history.
        ModelVersionNotFound: there is no such version.
        StorageFailed: what was found could not be kept.

    """
    if not await asyncio.to_thread(_needs_rehearsal, registry, version):
        return
    manifest = await asyncio.to_thread(registry.versions.manifest, version)
    await asyncio.to_thread(_store_rehearsal, registry, version, await rehearse(manifest), by)


def _needs_rehearsal(registry: ModelRegistry, version: int) -> bool:
    registry.versions.check_promotable(version)
    return not (registry.versions.is_rehearsed(version) or registry.history.has_served(version))


def _store_rehearsal(registry: ModelRegistry, version: int, rules: Sequence[pb.RuleResult], by: str) -> None:
    rehearsal = pb.Rehearsal(rules=rules)
    rehearsal.at.FromDatetime(datetime.now(UTC))
    registry.versions.add_rehearsal(version, rehearsal)
    if not all(rule.passed for rule in rules):
        registry.record_refusal(version, by)
    registry.versions.check_promotable(version)


async def rehearse(setup: RehearsalSetup, manifest: pb.Manifest) -> list[pb.RuleResult]:
    """Rehearse a version and return every rule with its numbers.

    When the version cannot be loaded or fails to answer, the rules after that are left out.
    """
    async with _process(setup) as (process, address), grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        problem = await _load(process, stub, manifest.version)
        if problem:
            return [_rule("rehearsal_loads", 1, 0, problem)]
        loaded = _rule("rehearsal_loads", 0, 0, f"version {manifest.version} was loaded beside the champion")
        wrong, seconds, problem = await _ask(process, stub, manifest)
        if problem:
            return [loaded, _rule("rehearsal_answers", 1, 0, problem)]
        asked = len(manifest.answers)
        shown = f": {'; '.join(wrong[:3])}" if wrong else ""
        median = statistics.median(seconds) if seconds else 0.0
        peak = _peak_bytes(process.pid)
        return [
            loaded,
            _rule(
                "rehearsal_answers",
                len(wrong),
                0,
                f"{len(wrong)} of {asked} answers differ from the recorded ones{shown}",
            ),
            _rule(
                "rehearsal_time",
                median,
                MAX_MEDIAN_SECONDS,
                f"median {median * 1e3:.1f} ms, longest {max(seconds, default=0) * 1e3:.1f} ms over gRPC; "
                f"at most {MAX_MEDIAN_SECONDS * 1e3:.0f} ms allowed for the median",
            ),
            _rule(
                "rehearsal_memory",
                peak,
                setup.memory_bytes,
                f"peak {peak / MEBIBYTE:.0f} MiB, at most {setup.memory_bytes / MEBIBYTE:.0f} MiB allowed",
            ),
        ]


def _rule(name: str, measured: float, threshold: float, detail: str) -> pb.RuleResult:
    passed = measured <= threshold
    return pb.RuleResult(rule=name, passed=passed, measured=measured, threshold=threshold, detail=detail)


@asynccontextmanager
async def _process(setup: RehearsalSetup) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run an inference process during the block, and kill it afterwards. Yields the process and its address."""
    port, scratch = _spare_port(), Path(tempfile.mkdtemp(prefix="moodfood-rehearsal-"))
    environment = {
        **os.environ,
        **setup.environment,
        "MOODFOOD_HOST": "127.0.0.1",
        "MOODFOOD_INFERENCE_PORT": str(port),
        "MOODFOOD_LOGS_DIR": str(scratch),
        # No real person asks these queries, so the trainer must not collect them.
        "MOODFOOD_SPOOL_MAX_BYTES": "0",
        SUPERVISOR_VARIABLE: str(os.getpid()),
    }
    process = await asyncio.create_subprocess_exec(
        *setup.command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (setup.memory_bytes, setup.memory_bytes))
        yield process, f"127.0.0.1:{port}"
    finally:
        await _end(process)
        shutil.rmtree(scratch, ignore_errors=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), STOP_SECONDS)


def _spare_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _load(
    process: asyncio.subprocess.Process, stub: "inference_pb2_grpc.InferenceServiceAsyncStub", version: int
) -> str:
    """Wait until the process answers, and make it load the version. Returns what went wrong; empty when it loaded."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            await stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=QUERY_SECONDS)
            break
        except grpc.aio.AioRpcError:
            if process.returncode is not None:
                return f"inference ended with status {process.returncode} before it served"
            if time.monotonic() > deadline:
                return f"inference did not serve within {START_SECONDS:.0f} s"
            await asyncio.sleep(POLL_SECONDS)
    try:
        await stub.ReloadModel(inference_pb2.ReloadModelRequest(version=version), timeout=LOAD_SECONDS)
    except grpc.aio.AioRpcError as error:
        return await _failure(process, error, "loading the version")
    return ""


async def _ask(
    process: asyncio.subprocess.Process,
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub",
    manifest: pb.Manifest,
) -> tuple[list[str], list[float], str]:
    """Send the recorded queries.

    Returns:
        Each answer that differs, as "text -> answer", the seconds of each query, and why the process failed; empty when
        it did not.

    """
    wrong: list[str] = []
    seconds: list[float] = []
    for recorded in manifest.answers:
        began = time.perf_counter()
        try:
            answer = await stub.Classify(
                inference_pb2.ClassifyRequest(text=recorded.text, top_k=1), timeout=QUERY_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            return wrong, seconds, await _failure(process, error, f"answering {recorded.text!r}")
        seconds.append(time.perf_counter() - began)
        (best,) = answer.classification.intents
        if (
            answer.classification.model_version != manifest.version
            or best.label != recorded.label
            or abs(best.confidence - recorded.confidence) > CONFIDENCE_TOLERANCE
        ):
            instead = f"{recorded.label} {recorded.confidence:.2f}"
            wrong.append(f"{recorded.text} -> {best.label} {best.confidence:.2f} instead of {instead}")
    return wrong, seconds, ""


async def _failure(process: asyncio.subprocess.Process, error: grpc.aio.AioRpcError, doing: str) -> str:
    # When a process crashes, its connection closes a moment before its exit status is known.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), POLL_SECONDS)
    if process.returncode is not None:
        return f"inference crashed with status {process.returncode} while {doing}"
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"inference did not answer in time while {doing}"
    return error.details() or error.code().name


def _peak_bytes(pid: int) -> int:
    """Return the peak resident size of a process, in bytes; 0 on systems without /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
