"""Appends query records to data/logs/query_logs.jsonl, off the request path.

Records wait in a queue of limited length. When the disk is too slow, the newest records are dropped and counted. A
thread writes each record as one line with one write to a file opened for appending, so replicas can share the file. A
file that is too large is rotated under a lock. When the path names another file, a replica opens that one.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from filelock import FileLock

QUEUE_RECORDS = 20_000
BATCH_WAIT_SECONDS = 0.1

_log = structlog.get_logger()

Render = Callable[[], str]


@dataclass(frozen=True)
class QueryLogStats:
    """Numbers of records since the start, and the state of the files; sizes in bytes, time in seconds since 1970."""

    written: int
    dropped: int
    pending: int
    file_bytes: int
    rotated_files: int
    last_written_at: float | None


class QueryLog:
    """A queue of records and the thread that writes them. Any thread may call `add`, which never blocks."""

    def __init__(self, path: Path, max_bytes: int, keep_files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep_files = keep_files
        self._queue: queue.Queue[Render | None] = queue.Queue(QUEUE_RECORDS)
        self._descriptor: int | None = None
        self._written = 0
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_until_closed, name="query-log", daemon=True)

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def add(self, render: Render) -> None:
        """Put one record into the queue. The writing thread calls `render`, which returns one line without line end."""
        try:
            self._queue.put_nowait(render)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the records in the queue and stop the thread. It waits at most two seconds."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=2.0)

    def stats(self) -> QueryLogStats:
        """Return the present statistics."""
        try:
            state = self._path.stat()
            size, last_written_at = state.st_size, state.st_mtime
        except OSError:
            size, last_written_at = 0, None
        rotated = sum(self._rotated(number).exists() for number in range(1, self._keep_files + 1))
        return QueryLogStats(self._written, self._dropped, self._queue.qsize(), size, rotated, last_written_at)

    def _write_until_closed(self) -> None:
        while True:
            batch, closing = self._next_batch()
            if batch:
                self._write(batch)
            if closing:
                self._close_file()
                return

    def _next_batch(self) -> tuple[list[Render], bool]:
        batch: list[Render] = []
        first = self._queue.get()
        if first is None:
            return batch, True
        batch.append(first)
        deadline = time.monotonic() + BATCH_WAIT_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            try:
                record = self._queue.get(timeout=remaining)
            except queue.Empty:
                break
            if record is None:
                return batch, True
            batch.append(record)
        return batch, False

    def _write(self, batch: list[Render]) -> None:
        done = 0
        try:
            descriptor = self._open_current()
            for render in batch:
                os.write(descriptor, (render() + "\n").encode())
                done += 1
            self._rotate_if_full(descriptor)
        except OSError as error:
            _log.error("cannot write the query log", path=str(self._path), problem=error.strerror)
            self._close_file()
        self._written += done
        self._dropped += len(batch) - done

    def _open_current(self) -> int:
        """Return a descriptor of the file that the path names now, because another replica may have rotated it."""
        if self._descriptor is not None and not self._is_current(self._descriptor):
            self._close_file()
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        return self._descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            named, held = self._path.stat(), os.fstat(descriptor)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _rotate_if_full(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_size < self._max_bytes:
            return
        with FileLock(f"{self._path}.lock"):
            if not self._is_current(descriptor):
                return
            for number in range(self._keep_files - 1, 0, -1):
                if self._rotated(number).exists():
                    self._rotated(number).replace(self._rotated(number + 1))
            self._path.replace(self._rotated(1))
