"""Draws what was measured of the trainer's store, as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.store_measurements import (
    CALLS,
    COLLECT,
    DRIFT,
    EXPORT,
    FORGET,
    GIVE,
    GIVE_BY_ID,
    HISTORY,
    KEEP,
    LOOK_UP,
    READ_SNAPSHOT,
    REVIEW,
    RUNS,
    STATUS,
    VERSIONS,
    WRITE_SNAPSHOT,
    Measured,
)
from benchmarks.store_page import FILES, NAMES, Parts

mpl.use("Agg")
from matplotlib import pyplot as plt

# "due" asks the same as "status", so its curve would lie on that of the status.
WRITES, LOOKS = (KEEP, FORGET, GIVE_BY_ID, GIVE), (REVIEW, STATUS, DRIFT, RUNS, VERSIONS, HISTORY)
STYLES = {"sqlite": "-", "postgresql": "--"}


def draw(path: Path, parts: Parts) -> None:
    """Draw the times of calls for each database, then what grows with the rows, and the memory."""
    figure, axes = plt.subplots(2, 3, figsize=(17, 10), constrained_layout=True)
    for row, part in enumerate(NAMES):
        if part in parts:
            name = NAMES[part]
            _draw_times(axes[row][0], f"{name}: what writes, ms", parts[part], WRITES)
            _draw_times(axes[row][1], f"{name}: what looks, ms", parts[part], LOOKS)
    _draw_growing(axes[0][2], parts)
    _draw_memory(axes[1][2], parts)
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log", xlabel="rows")
        axis.set_xlim(700, 4e7)
        axis.set_xticks([1e3, 1e4, 1e5, 1e6])
        axis.grid(visible=True, which="major", linewidth=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def _draw_times(axes: Any, title: str, measured: Measured, names: Sequence[str]) -> None:
    lines = {name: [costs[name].seconds * 1e3 for costs in measured.values()] for name in names}
    for name, millis in lines.items():
        axes.plot(list(measured), millis, marker="o", markersize=3, label=name)
    axes.set(title=title, ylim=(0.3, 3000))
    _label_ends(axes)


def _draw_growing(axes: Any, parts: Parts) -> None:
    for part in NAMES:
        if part in parts:
            for name in (COLLECT, EXPORT):
                seconds = [costs[name].seconds for costs in parts[part].values()]
                axes.plot(list(parts[part]), seconds, STYLES[part], marker="o", markersize=3,
                          label=f"{name}, {NAMES[part]}")  # fmt: skip
    if FILES in parts:
        for name in (WRITE_SNAPSHOT, READ_SNAPSHOT, LOOK_UP):
            seconds = [costs[name].seconds for costs in parts[FILES].values()]
            axes.plot(list(parts[FILES]), seconds, ":", marker="o", markersize=3, label=name)
    axes.set(title="what reads or writes all rows, s")
    axes.set_ylim(1e-5, 1e3)
    _label_ends(axes)


def _draw_memory(axes: Any, parts: Parts) -> None:
    for part, name in NAMES.items():
        if part in parts:
            peaks = [max(costs[call].peak_mb for call in CALLS) for costs in parts[part].values()]
            axes.plot(list(parts[part]), peaks, STYLES[part], marker="o", markersize=3, label=f"any call, {name}")
            peaks = [costs[COLLECT].peak_mb for costs in parts[part].values()]
            axes.plot(list(parts[part]), peaks, STYLES[part], marker="o", markersize=3, label=f"{COLLECT}, {name}")
    if FILES in parts:
        for name in (WRITE_SNAPSHOT, READ_SNAPSHOT, LOOK_UP):
            peaks = [costs[name].peak_mb for costs in parts[FILES].values()]
            axes.plot(list(parts[FILES]), peaks, ":", marker="o", markersize=3, label=name)
    axes.set(title="peak memory of the process, MB")
    axes.set_ylim(50, 5000)
    _label_ends(axes)


def _label_ends(axes: Any) -> None:
    """Write the name of each line at its right end; names that would overlap are moved apart."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    lowest, step = 0.0, (high / low) ** 0.045
    for line in sorted(axes.get_lines(), key=lambda line: float(line.get_ydata()[-1])):
        end = float(line.get_ydata()[-1])
        lowest = max(end, lowest * step)
        axes.annotate(line.get_label(), (line.get_xdata()[-1], end), xytext=(1.5e6, lowest), textcoords="data",
                      color=line.get_color(), fontsize=8, va="center",
                      arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.4})  # fmt: skip
