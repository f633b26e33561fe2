"""Measure what users feel on this machine: time of a query by gRPC and REST, p99 during a swap, memory, retraining.

Starts the three real processes on free ports with the shipped data, sends bounded traffic over loopback, prints a table
and ends with 1 if a limit is missed. Limits of time are ratios to an empty call on the same channel, asked in turn in
the same run, because absolute times mean little on a shared machine. Repeat with `make bench`. With `--examples FILE`
it also measures the exported graph against scikit-learn's own pipeline on those examples, in turn.
"""

import argparse
import itertools
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

from services.trainer.examples import read_examples
from services.trainer.export import export_graph
from services.trainer.scoring import GraphScorer
from services.trainer.training import fit
from tests.e2e.system import System, system

QUERIES = 1000
WARM_UP = 50
QUERY = "rainy day, something warm"
GRPC_OVER_EMPTY = 2.5
REST_OVER_EMPTY = 6.0
GRAPH_OVER_SCIKIT_LEARN = 0.5
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
            empty_grpc, query_grpc, empty_rest, query_rest = timed(
                lambda: health.Check(health_pb2.HealthCheckRequest()),
                lambda: stub.Classify(inference_pb2.ClassifyRequest(text=QUERY)),
                lambda: client.get("/livez").raise_for_status(),
                lambda: client.post("/classify", json={"text": QUERY}).raise_for_status(),
            )
            memory = resident_mb(live.processes["inference"].pid)
            retrain_seconds = measure_retrain(live)
            during_swaps = measure_swaps(live, stub)
        return {
            "empty gRPC call, p50 ms": (p50(empty_grpc), 0),
            "gRPC query, p50 ms": (p50(query_grpc), 0),
            "gRPC query, p99 ms": (p99(query_grpc), 0),
            "gRPC query over empty call, p50": (p50(query_grpc) / p50(empty_grpc), GRPC_OVER_EMPTY),
            "empty REST call, p50 ms": (p50(empty_rest), 0),
            "REST query, p50 ms": (p50(query_rest), 0),
            "REST query, p99 ms": (p99(query_rest), 0),
            "REST query over empty call, p50": (p50(query_rest) / p50(empty_rest), REST_OVER_EMPTY),
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


def measure_swaps(live: System, stub: inference_pb2_grpc.InferenceServiceStub) -> list[float]:
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
        return timed(lambda: stub.Classify(inference_pb2.ClassifyRequest(text=QUERY)))[0]
    finally:
        over.set()
        thread.join()


def measure_graph(path: Path) -> dict[str, tuple[float, float]]:
    """Compare the exported graph with scikit-learn's pipeline on the same queries, in turn."""
    examples = [each for each in read_examples([path])[0] if each.labels]
    model = fit(examples)
    scorer = GraphScorer(export_graph(model), model.labels)
    texts = itertools.cycle([example.text for example in examples[:500]])
    graph, pipeline = timed(lambda: scorer.probabilities([next(texts)]), lambda: model.probabilities([next(texts)]))
    return {
        "graph, p50 µs per query": (p50(graph) * 1e3, 0),
        "scikit-learn, p50 µs per query": (p50(pipeline) * 1e3, 0),
        "graph over scikit-learn, p50": (p50(graph) / p50(pipeline), GRAPH_OVER_SCIKIT_LEARN),
    }


def main() -> None:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, help='JSON lines of {"text", "labels"} for the graph comparison')
    asked = parser.parse_args()
    results = measure_serving()
    if asked.examples:
        results |= measure_graph(asked.examples)
    missed = False
    for name, (measured, limit) in results.items():
        verdict = "" if limit == 0 else f"   limit {limit:g}: {'ok' if measured <= limit else 'MISSED'}"
        missed = missed or (limit > 0 and measured > limit)
        print(f"{name:<40} {measured:9.2f}{verdict}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
