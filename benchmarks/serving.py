"""Measure what users feel on this machine: time of a query by gRPC and REST, p99 during a swap, memory, retraining.

Starts the three real processes on free ports with the shipped data, sends bounded traffic over loopback, prints a table
and ends with 1 if a limit is missed. Limits of time are ratios to an empty call on the same channel, asked in turn in
the same run, because absolute times mean little on a shared machine. Repeat with `make bench`.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc

from tests.system import System, system

QUERIES = 1000
WARM_UP = 50
GOLDEN = Path(__file__).resolve().parent.parent / "data" / "examples" / "golden.jsonl"
GRPC_OVER_EMPTY = 2.5
REST_OVER_EMPTY = 6.0
RESIDENT_MB = 200.0


def timed(*calls: Callable[[], object]) -> list[list[float]]:
    """Ask the calls in turn and return the sorted milliseconds of each, after a warm-up."""
    times: list[list[float]] = [[] for _ in calls]
    for round_number in range(WARM_UP + QUERIES):
        for call, taken in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            if round_number >= WARM_UP:
                taken.append((time.perf_counter() - began) * 1e3)
    return [sorted(taken) for taken in times]


def p50(times: list[float]) -> float:
    """Return the median."""
    return statistics.median(times)


def p99(times: list[float]) -> float:
    """Return the 99th percentile."""
    return times[int(len(times) * 0.99)]


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure_serving() -> dict[str, tuple[float, float]]:
    """Return name -> (measured, limit); a limit of 0 means there is none."""
    with tempfile.TemporaryDirectory() as folder:
        data, models = Path(folder) / "data", Path(folder) / "models"
        data.mkdir()
        with (
            system(data, models, "mood_food") as live,
            grpc.insecure_channel(live.inference) as channel,
            httpx.Client(base_url=live.url) as client,
        ):
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel)
            easy = answered_by(stub, inference_pb2.STAGE_LINEAR)
            hard = answered_by(stub, inference_pb2.STAGE_TRANSFORMER)
            empty_grpc, easy_grpc, hard_grpc, empty_rest, easy_rest, hard_rest = timed(
                lambda: health.Check(health_pb2.HealthCheckRequest()),
                lambda: stub.Classify(inference_pb2.ClassifyRequest(text=easy)),
                lambda: stub.Classify(inference_pb2.ClassifyRequest(text=hard)),
                lambda: client.get("/livez").raise_for_status(),
                lambda: client.post("/classify", json={"text": easy}).raise_for_status(),
                lambda: client.post("/classify", json={"text": hard}).raise_for_status(),
            )
            memory = resident_mb(live.processes["inference"].pid)
            retrain_seconds = measure_retrain(live)
            during_swaps = measure_swaps(live, stub, easy)
        return {
            "empty gRPC call, p50 ms": (p50(empty_grpc), 0),
            "gRPC, linear stage, p50 ms": (p50(easy_grpc), 0),
            "gRPC, linear stage, p99 ms": (p99(easy_grpc), 0),
            "gRPC, transformer stage, p50 ms": (p50(hard_grpc), 0),
            "gRPC, transformer stage, p99 ms": (p99(hard_grpc), 0),
            "gRPC, linear stage over empty call, p50": (p50(easy_grpc) / p50(empty_grpc), GRPC_OVER_EMPTY),
            "empty REST call, p50 ms": (p50(empty_rest), 0),
            "REST, linear stage, p50 ms": (p50(easy_rest), 0),
            "REST, transformer stage, p50 ms": (p50(hard_rest), 0),
            "REST, linear stage over empty call, p50": (p50(easy_rest) / p50(empty_rest), REST_OVER_EMPTY),
            "gRPC query during swaps, p99 ms": (p99(during_swaps), 0),
            "inference resident MB": (memory, RESIDENT_MB),
            "retrain, idle, s": (retrain_seconds, 0),
        }


def measure_retrain(live: System) -> float:
    """Return the seconds from asking for a retrain to its end."""
    began = time.perf_counter()
    run = live.retrain()
    if run["state"] != "succeeded":
        sys.exit(f"the retrain went wrong: {run['reasons']}")
    return time.perf_counter() - began


def answered_by(stub: inference_pb2_grpc.InferenceServiceStub, stage: "inference_pb2.Stage.ValueType") -> str:
    """Return the first golden query that a stage answers."""
    texts = (str(json.loads(line)["text"]) for line in GOLDEN.read_text().splitlines())
    asked = ((text, stub.Classify(inference_pb2.ClassifyRequest(text=text))) for text in texts)
    return next(text for text, answer in asked if answer.classification.stage == stage)


def measure_swaps(live: System, stub: inference_pb2_grpc.InferenceServiceStub, text: str) -> list[float]:
    """Return the times of queries while another channel swaps between two versions without a pause."""
    over = threading.Event()

    def swap() -> None:
        with grpc.insecure_channel(live.inference) as channel:
            other = inference_pb2_grpc.InferenceServiceStub(channel)
            version = 1
            while not over.is_set():
                other.ReloadModel(inference_pb2.ReloadModelRequest(version=version))
                version = 3 - version

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        return timed(lambda: stub.Classify(inference_pb2.ClassifyRequest(text=text)))[0]
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Measure, print, and compare with the limits."""
    results = measure_serving()
    missed = False
    for name, (measured, limit) in results.items():
        verdict = "" if limit == 0 else f"   limit {limit:g}: {'ok' if measured <= limit else 'MISSED'}"
        missed = missed or (limit > 0 and measured > limit)
        print(f"{name:<44} {measured:9.2f}{verdict}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
