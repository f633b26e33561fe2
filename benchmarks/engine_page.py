"""Writes what was measured of the engine as a page of Markdown."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime

from benchmarks.engine_measurements import CASCADE, OVER_SCIKIT_LEARN, Measurements, Speed, Training
from services.trainer.dataset.examples import Example


def write_page(
    name: str, train_set: Sequence[Example], measured: Measurements, trainings: Mapping[str, Training]
) -> str:
    """Return the page; `name` is that of the dataset and of the picture beside the page."""
    of_test = measured.evaluations[CASCADE]
    labels = len({label for example in train_set for label in example.labels})
    head = (
        f"{len(train_set):,} examples of {labels} labels, {of_test.held_out_examples:,} test queries and "
        f"{of_test.out_of_scope_examples:,} out-of-scope ones. Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}, "
        f"ONNX Runtime {onnxruntime.__version__}. Repeat with `make bench` (see benchmarks/engine.py)."
    )
    picture = f"![accuracy against time, reliability, escalation]({name}.png)"
    training = table(
        ("`moodfood train`, files to registered version", "seconds", "peak MB"),
        [(what, f"{run.seconds:.1f}", f"{run.peak_mb:,.0f}") for what, run in trainings.items()],
    )
    sections = [f"# {name}", head, picture, _write_accuracy(measured), *_write_speed(measured.speed), training]
    return "\n\n".join(sections) + "\n"


def _write_accuracy(measured: Measurements) -> str:
    return table(
        ("", "top-1", "macro-F1", "recall@3", "ECE", "escalated", "out-of-scope recall at 95 % coverage", "mean µs"),
        [
            (stage, result.accuracy, result.macro_f1, result.recall_at_3, result.calibration_error, result.escalated,
             result.out_of_scope_recall_at_95 if result.out_of_scope_examples else "-",
             f"{measured.mean_micros[stage]:,.0f}")
            for stage, result in measured.evaluations.items()
        ],
    )  # fmt: skip


def _write_speed(speed: Speed) -> list[str]:
    timings = {
        "linear graph, `session.run`": speed.linear,
        "transformer stage: tokenise, encode, head": speed.transformer,
        "scikit-learn pipeline, same n-grams": speed.scikit_learn,
        "skl2onnx stock export, words only": speed.stock_export,
    }
    facts = {
        "scikit-learn's time over the graph's, p50": f"{speed.over_scikit_learn:.1f} (at least {OVER_SCIKIT_LEARN:g})",
        "skl2onnx stock export's time over the graph's, p50": (
            f"{speed.over_stock_export:.1f} (at least {speed.least_over_stock_export:g})"
        ),
        "linear graph, MB": f"{speed.graph_bytes / 1e6:.1f}",
        "linear graph, load ms": f"{speed.load_millis:.0f}",
    }
    return [
        table(
            ("one query, one thread", "p50 µs", "p99 µs", "mean µs"),
            [
                (what, f"{timing.p50:,.0f}", f"{timing.p99:,.0f}", f"{timing.mean:,.0f}")
                for what, timing in timings.items()
            ],
        ),
        table(("", ""), list(facts.items())),
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; floats have four decimals."""
    cells = [[f"{cell:,.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in ([*columns], ["---"] * len(columns), *cells)]
    return "\n".join(lines)


def machine() -> str:
    """Return the number of cores that this process may use and the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {model}"
