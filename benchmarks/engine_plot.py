"""Draws what was measured of the engine, as one picture."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.engine_measurements import CASCADE, Measurements
from benchmarks.published import PUBLISHED

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(path: Path, name: str, measured: Measurements) -> None:
    """Draw accuracy against time, the reliability diagram and the escalation curve; `name` is that of the dataset."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5), constrained_layout=True)
    _draw_accuracy(left, name, measured)
    _draw_reliability(middle, measured)
    _draw_escalation(right, measured)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_accuracy(axes: Any, name: str, measured: Measurements) -> None:
    for stage, evaluation in measured.evaluations.items():
        point = measured.mean_micros[stage], evaluation.accuracy
        axes.scatter(*point, s=70, zorder=3)
        axes.annotate(stage, point, textcoords="offset points", xytext=(8, -12))
    for system, accuracy in PUBLISHED.get(name, {}).items():
        axes.axhline(accuracy, color="gray", linewidth=0.8, linestyle="--")
        axes.annotate(f"{system} {accuracy:.3f}", (1.0, accuracy), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", fontsize=8, color="gray")  # fmt: skip
    axes.set(xscale="log", xlabel="mean time of a query, µs, one thread", ylabel="top-1 accuracy",
             title=f"{name}: accuracy against time", xlim=(20, 20_000))  # fmt: skip


def _draw_reliability(axes: Any, measured: Measurements) -> None:
    bins, error = measured.reliability, measured.evaluations[CASCADE].calibration_error
    axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    axes.scatter(bins.confidences, bins.right, s=20 + 300 * bins.sizes / bins.sizes.sum(), alpha=0.7)
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1),
             title=f"cascade: reliability, ECE {error:.3f}")  # fmt: skip


def _draw_escalation(axes: Any, measured: Measurements) -> None:
    cascade = measured.evaluations[CASCADE]
    chosen = cascade.escalated, cascade.accuracy
    axes.plot(measured.escalation.shares, measured.escalation.accuracies)
    axes.scatter(*chosen, zorder=3)
    axes.annotate("chosen out of fold", chosen, textcoords="offset points", xytext=(8, -14))
    axes.set(xlabel="share escalated, smallest margins first", ylabel="top-1 accuracy", title="cascade: escalation")
