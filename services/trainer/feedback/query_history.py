"""Reads the query log that inference writes: recent queries and their answers.

Every call reads only the lines that were added since the call before.
"""

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_QUERIES = 200_000
MAX_RECENT = 20_000
# This much of the log contains more than MAX_QUERIES queries. Reading more would take seconds.
LOOK_BACK_BYTES = 96 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ShadowAnswer:
    """The shadow answer: what the arm that did not answer the caller would have said. `micros` is its time."""

    version: int
    label: str
    confidence: float
    micros: int
    error: str


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """One line of the query log.

    `at` is in seconds since 1970, `second` is the confidence of the second label, `micros` is the time of the answer in
    microseconds.
    """

    query_id: str
    text: str
    at: float
    label: str
    confidence: float
    second: float
    stage: str
    version: int
    micros: int
    experiment_id: str = ""
    arm: str = ""
    shadow: ShadowAnswer | None = None


class QueryHistory:
    """The texts of the newest MAX_QUERIES queries, and the answers of the newest MAX_RECENT. Threads may share it."""

    def __init__(self, query_log: Path) -> None:
        self._query_log = query_log
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._recent: OrderedDict[str, AnsweredQuery] = OrderedDict()
        self._inode = -1
        self._offset = 0
        self._reading = threading.Lock()

    def text_of(self, query_id: str) -> str | None:
        """Return the text of a query; None when it is not in the log, or not yet."""
        with self._reading:
            if query_id not in self._texts:
                self._read_on()
            return self._texts.get(query_id)

    def recent(self) -> list[AnsweredQuery]:
        """Return the newest MAX_RECENT queries with their answers, oldest first."""
        with self._reading:
            self._read_on()
            return list(self._recent.values())

    def forget(self) -> None:
        """Forget what was read, so that the next call reads all files again. Call it when lines were deleted."""
        with self._reading:
            self._texts.clear()
            self._recent.clear()
            self._inode = -1

    def _read_on(self) -> None:
        try:
            state = self._query_log.stat()
        except OSError:
            return
        if state.st_ino != self._inode or state.st_size < self._offset:
            # At the first read and after a rotation, the rotated files may hold lines that were not read yet.
            for path in _choose_newest(rotated_files(self._query_log), LOOK_BACK_BYTES - state.st_size):
                self._read(path, 0)
            self._inode, self._offset = state.st_ino, 0
        self._offset = self._read(self._query_log, self._offset)

    def _read(self, path: Path, offset: int) -> int:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    self._remember(line)
        except OSError:
            pass
        return offset

    def _remember(self, line: bytes) -> None:
        query = parse_query(line)
        if query is None:
            return
        for kept, most in ((self._texts, MAX_QUERIES), (self._recent, MAX_RECENT)):
            if len(kept) >= most:
                kept.popitem(last=False)
        self._texts[query.query_id] = query.text
        self._recent[query.query_id] = query


def rotated_files(query_log: Path) -> Iterator[Path]:
    """Yield the rotated files of a query log, oldest first."""
    rotated = query_log.parent.glob(f"{query_log.name}.[0-9]*")
    yield from sorted(rotated, key=lambda path: int(path.suffix[1:]), reverse=True)


def _choose_newest(oldest_first: Iterable[Path], room: int) -> list[Path]:
    """Return the newest files, oldest first, that together have at least `room` bytes."""
    chosen: list[Path] = []
    for path in reversed(list(oldest_first)):
        if room <= 0:
            break
        chosen.insert(0, path)
        with contextlib.suppress(OSError):
            room -= path.stat().st_size
    return chosen


def parse_query(line: bytes) -> AnsweredQuery | None:
    """Return the query in a line of the log; None when the line has no query or cannot be read."""
    try:
        record = json.loads(line)
        if record["event"] != "query":
            return None
        labels = record.get("labels") or [{}]
        shadow = record.get("shadow")
        return AnsweredQuery(
            query_id=str(record["query_id"]),
            text=str(record["text"]),
            at=_read_seconds(record.get("at", "")),
            label=str(labels[0].get("label", "")),
            confidence=float(labels[0].get("confidence", 0)),
            second=float(labels[1].get("confidence", 0)) if len(labels) > 1 else 0.0,
            stage=str(record.get("stage", "")),
            version=int(record.get("model_version", 0)),
            micros=int(record.get("latency_micros", 0)),
            experiment_id=str(record.get("experiment_id", "")),
            arm=str(record.get("arm", "")),
            shadow=_read_shadow(shadow) if shadow else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_shadow(shadow: dict[str, Any]) -> ShadowAnswer:
    return ShadowAnswer(
        int(shadow.get("model_version", 0)),
        str(shadow.get("label", "")),
        float(shadow.get("confidence", 0)),
        int(shadow.get("latency_micros", 0)),
        str(shadow.get("error", "")),
    )


def _read_seconds(at: str) -> float:
    return datetime.fromisoformat(at).astimezone(UTC).timestamp() if at else 0.0
