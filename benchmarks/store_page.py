"""Writes what was measured of the trainer's store as a page of Markdown."""

from collections.abc import Mapping
from datetime import UTC, datetime

from benchmarks.engine_page import machine, table
from benchmarks.store_measurements import (
    CALLS,
    COLLECT,
    EXPORT,
    IMPORT,
    LOOK_UP,
    READ_SNAPSHOT,
    WAIT,
    WRITE_SNAPSHOT,
    Measured,
)
from services.trainer.dataset.cleaning import MOST_FEEDBACK

FILES = "files"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
# A call that is constant or logarithmic doubles at most; the rest is for a noisy machine. A linear one grows by 1,000.
MOST_GROWTH = 5.0

# From the name of a part to what was measured of it.
Parts = Mapping[str, Measured]


def growth(measured: Measured, name: str) -> float:
    """Return the time with the most rows over that with the fewest."""
    return measured[max(measured)][name].seconds / measured[min(measured)][name].seconds


def list_grown(parts: Parts) -> list[str]:
    """Return the calls that take more than MOST_GROWTH times as long with the most rows."""
    return [
        f"{name} on {NAMES[part]}"
        for part in parts
        if part in NAMES
        for name in CALLS
        if growth(parts[part], name) > MOST_GROWTH
    ]


def write_page(parts: Parts) -> str:
    """Return the page."""
    head = (
        f"What the trainer asks its database and files, from 10^3 to 10^6 rows. Measured {datetime.now(UTC):%Y-%m-%d} "
        f"on {machine()}. Repeat with `.venv/bin/python -m benchmarks.store` (see benchmarks/store.py)."
    )
    sections = ["# The trainer's store", head, "![time and memory against rows](store.png)"]
    for part, name in NAMES.items():
        if part in parts:
            sections += [f"## {name}", *_write_database(parts[part], name)]
    if FILES in parts:
        sections += ["## Files", *_write_files(parts[FILES])]
    return "\n\n".join(sections) + "\n"


def _write_database(measured: Measured, name: str) -> list[str]:
    grown = {call: growth(measured, call) for call in CALLS}
    most = max(grown, key=lambda call: grown[call])
    calls = table(
        ("one call, median ms", *(f"{size:,} rows" for size in measured), "10^6 over 10^3", "peak MB"),
        [
            (
                call,
                *(f"{costs[call].seconds * 1e3:,.1f}" for costs in measured.values()),
                f"{grown[call]:.1f}",
                f"{measured[max(measured)][call].peak_mb:,.0f}",
            )
            for call in CALLS
        ],
    )
    sentence = (
        f"With a thousand times as many rows, the calls on {name} take {min(grown.values()):.1f} to {grown[most]:.1f} "
        f"times as long (most: {most}). The benchmark fails above {MOST_GROWTH:g}."
    )
    largest = measured[max(measured)]
    reading = (
        f"A run collects the feedback on the last {MOST_FEEDBACK:,} texts, so collecting stops growing there: "
        f"{largest[COLLECT].seconds:.1f} s and {largest[COLLECT].peak_mb:,.0f} MB with 10^6 statements. The export "
        f"reads all of them: {largest[EXPORT].seconds:.1f} s and {largest[EXPORT].peak_mb:,.0f} MB."
    )
    if IMPORT in largest:
        reading += (
            f" An import of 100,000 examples beside 10^6 statements takes {largest[IMPORT].seconds:.1f} s; another "
            f"writer waits {largest[WAIT].seconds:.1f} s at most."
        )
    return [calls, sentence, reading]


def _write_files(measured: Measured) -> list[str]:
    names = (WRITE_SNAPSHOT, READ_SNAPSHOT, LOOK_UP)
    rows = table(
        ("seconds", *(f"{size:,} examples" for size in measured), "peak MB", "MB of the file"),
        [
            (
                name,
                *(f"{costs[name].seconds:.4f}" for costs in measured.values()),
                f"{measured[max(measured)][name].peak_mb:,.0f}",
                f"{measured[max(measured)][name].file_bytes / 1e6:,.1f}" if name != READ_SNAPSHOT else "-",
            )
            for name in names
        ],
    )
    sentence = (
        "A snapshot is written and read in time that grows with its rows, or less "
        f"(10^6 over 10^3: {growth(measured, WRITE_SNAPSHOT):,.0f} and {growth(measured, READ_SNAPSHOT):,.0f}). "
        f"Embeddings are mapped into memory: 256 of 10^6 take {growth(measured, LOOK_UP):.1f} times as long as 256 of "
        "10^3. The peaks include what the process holds anyway: it has made the examples before."
    )
    return [rows, sentence]
