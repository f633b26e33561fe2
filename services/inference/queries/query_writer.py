"""Writes every answered query to the query log and to a spool, off the request path.

Queries wait in a queue that is limited by count and by bytes. When the disks are too slow, the newest queries are
dropped and counted. One thread does everything that touches the files, so the files need no other lock: it writes, and
between two writes it does what others ask for.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from services.inference.errors import StorageFailed
from services.inference.queries.forgetting import Doomed
from services.inference.queries.query_log import QueryLog
from services.inference.queries.query_record import AnsweredQuery, ShadowAnswer, build_query_record, render_line
from services.inference.queries.spool import Batch
from services.inference.queries.spools import Spools

MAX_QUEUE_QUERIES = 20_000
MAX_QUEUE_BYTES = 32 * 1024 * 1024
# The first query of a batch waits for others for this time: fewer wake-ups take less time from answering.
BATCH_WAIT_SECONDS = 0.05
# So many queries are written at once. It is also about how far a file may exceed its limit.
MAX_WRITTEN_QUERIES = 500
LATE_CHECK_SECONDS = 1.0
CLOSE_SECONDS = 2.0

_QUERY_BYTES = 1000
_LABEL_BYTES = 100

_log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True)
class QueryLogStats:
    """Numbers of queries, and the state of the files; sizes in bytes, time in seconds since 1970.

    `written`, `dropped` and `pending` say what became of the lines of the query log since the start. `spooled` waits in
    the spools for the trainer; `spool_dropped` was lost before the trainer had it.
    """

    written: int
    dropped: int
    pending: int
    file_bytes: int
    rotated_files: int
    last_written_at: float | None
    spooled: int
    spool_dropped: int
    spool_bytes: int
    spool_id: str


@dataclass(frozen=True)
class Forgotten:
    """Numbers of query records that were deleted from the files of the query log and from the spools."""

    log_lines: int
    spooled: int


@dataclass(frozen=True)
class _Query:
    answered: AnsweredQuery
    shadow: ShadowAnswer | None
    size: int


class _Trouble:
    """Tells operators when files begin to refuse, and when they work again; once, and not for every write."""

    def __init__(self, begins: str, ends: str) -> None:
        self._begins = begins
        self._ends = ends
        self._on = False

    def begin(self, error: OSError) -> None:
        if not self._on:
            _log.error(self._begins, problem=error.strerror or str(error))
        self._on = True

    def end(self) -> None:
        if self._on:
            _log.info(self._ends)
        self._on = False


class QueryWriter:
    """A queue of answered queries and the thread that writes them. Any thread may call the methods; none blocks."""

    def __init__(self, query_log: QueryLog, spools: Spools) -> None:
        self._query_log = query_log
        self._spools = spools
        # Guards the four fields below it, and wakes the thread.
        self._changed = threading.Condition()
        self._queue = deque[_Query]()
        self._queue_bytes = 0
        self._asked = deque[Callable[[], object]]()
        self._closing = False
        self._written = 0
        self._dropped = 0
        # Dropped queries that the spool does not count yet.
        self._lost = 0
        self._collecting: list[Future[Batch]] = []
        # Whoever asks for statistics must not wait for a disk, so the thread notes the state of the files.
        self._log_state: tuple[int, int, float | None] = (0, 0, None)
        self._spool_state = (0, 0, 0, "")
        self._log_trouble = _Trouble("cannot write the query log", "the query log is written again")
        self._spool_trouble = _Trouble("cannot write the spool", "the spool is written again")
        self._thread = threading.Thread(target=self._work_until_closed, name="query-writer", daemon=True)

    def start(self) -> None:
        """Open the files and start the thread that writes.

        Operators then find the log, and the trainer what dead processes have left, before the first query comes.
        """
        self._attempt(self._log_trouble, self._query_log.open)
        self._attempt(self._spool_trouble, self._spools.open)
        self._note_state()
        self._thread.start()

    def add(self, answered: AnsweredQuery, shadow: ShadowAnswer | None = None) -> None:
        """Put one query into the queue. It is dropped and counted when the queue is full."""
        size = sys.getsizeof(answered.text) + _QUERY_BYTES + _LABEL_BYTES * len(answered.answer.intents)
        with self._changed:
            if len(self._queue) >= MAX_QUEUE_QUERIES or self._queue_bytes + size > MAX_QUEUE_BYTES:
                self._dropped += 1
                self._lost += 1
                return
            self._queue.append(_Query(answered, shadow, size))
            self._queue_bytes += size
            if len(self._queue) == 1:
                self._changed.notify()

    def collect(self) -> "Future[Batch]":
        """Return the oldest records that wait in the spools, as soon as there are any. Cancel it to stop waiting."""
        future: Future[Batch] = Future()
        self._ask(lambda: self._collecting.append(future))
        return future

    def acknowledge(self, spool_id: str, position: int) -> None:
        """Delete the records of a spool up to a position: the trainer has stored them."""
        work = partial(self._spools.acknowledge, spool_id, position)
        self._ask(lambda: self._attempt(self._spool_trouble, work))

    def forget(self, doomed: Doomed) -> "Future[Forgotten]":
        """Delete records from the query log and from the spools. The future raises StorageFailed: ask again."""
        future: Future[Forgotten] = Future()
        self._ask(lambda: self._forget(doomed, future))
        return future

    def stats(self) -> QueryLogStats:
        """Return the statistics. Those of the files are as the thread saw them after its last work."""
        spooled, spool_dropped, spool_bytes, spool_id = self._spool_state
        return QueryLogStats(
            self._written, self._dropped, len(self._queue), *self._log_state,
            spooled, spool_dropped, spool_bytes, spool_id,
        )  # fmt: skip

    def close(self) -> None:
        """Write what is in the queue and stop the thread. It waits at most two seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_SECONDS)

    def _ask(self, work: Callable[[], object]) -> None:
        with self._changed:
            self._asked.append(work)
            self._changed.notify()

    def _work_until_closed(self) -> None:
        closing = False
        while not closing:
            closing = self._wait()
            self._write_queue()
            while self._asked:
                self._asked.popleft()()
            self._collecting = [future for future in self._collecting if not self._deliver(future)]
            if self._query_log.has_replaced:
                self._attempt(self._log_trouble, self._query_log.save_late_lines)
            self._note_state()
        for future in self._collecting:
            future.cancel()
        self._query_log.close()
        self._spools.close()

    def _note_state(self) -> None:
        self._log_state, self._spool_state = self._query_log.state(), self._spools.state()

    def _wait(self) -> bool:
        """Wait until there is something to do. Returns whether it is the last turn."""
        with self._changed:
            patience = LATE_CHECK_SECONDS if self._query_log.has_replaced else None
            self._changed.wait_for(lambda: self._queue or self._asked or self._closing, patience)
            self._changed.wait_for(lambda: self._asked or self._closing, BATCH_WAIT_SECONDS if self._queue else 0.0)
            return self._closing

    def _write_queue(self) -> None:
        while self._queue or self._lost:
            with self._changed:
                queries = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_WRITTEN_QUERIES))]
                self._queue_bytes -= sum(query.size for query in queries)
                lost, self._lost = self._lost, 0
            rendered = [pair for query in queries if (pair := _render(query)) is not None]
            lost += len(queries) - len(rendered)
            self._attempt(self._spool_trouble, partial(self._spool, [content for content, _ in rendered], lost))
            before = self._written
            self._attempt(self._log_trouble, partial(self._log, [line for _, line in rendered]))
            with self._changed:
                self._dropped += len(queries) - (self._written - before)

    def _spool(self, contents: Sequence[bytes], lost: int) -> None:
        try:
            self._spools.count_dropped(lost)
        finally:
            self._spools.append(contents)
        if contents:
            self._spool_trouble.end()

    def _log(self, lines: Sequence[bytes]) -> None:
        done = 0
        while done < len(lines):
            written = self._query_log.write(lines[done:])
            done += written
            self._written += written
        self._query_log.rotate_if_full()
        if lines:
            self._log_trouble.end()

    def _attempt(self, trouble: _Trouble, work: Callable[[], None]) -> None:
        """Do something with the disk. Nothing that goes wrong there ends the thread, or keeps it from the rest."""
        try:
            work()
        except OSError as error:
            trouble.begin(error)
        except Exception as error:
            _log.error("unexpected error in the writer of queries", exc_info=error)

    def _deliver(self, future: "Future[Batch]") -> bool:
        """Give records to somebody who collects. Returns false while there are none."""
        try:
            batch = self._spools.read()
        except Exception as error:
            _fail(future, "read the spool", error)
            return True
        if batch is None:
            return future.cancelled()
        if future.set_running_or_notify_cancel():
            future.set_result(batch)
        return True

    def _forget(self, doomed: Doomed, future: "Future[Forgotten]") -> None:
        """Delete from both, even if the first refuses."""
        failures = list[Exception]()

        def attempt(forget: Callable[[], int]) -> int:
            try:
                return forget()
            except Exception as error:
                failures.append(error)
                return 0

        log_lines = attempt(lambda: self._query_log.forget(doomed.has_line, self._write_queue))
        spooled = attempt(lambda: self._spools.forget(doomed.has_record, self._write_queue))
        if failures:
            _fail(future, "delete from the query log or the spool", failures[0])
        elif future.set_running_or_notify_cancel():
            future.set_result(Forgotten(log_lines, spooled))


def _render(query: _Query) -> tuple[bytes, bytes] | None:
    """Return the serialised record of a query and its line; None when it has none, which is a bug."""
    try:
        record = build_query_record(query.answered, query.shadow)
        return record.SerializeToString(), render_line(record)
    except Exception as error:
        _log.error("cannot render a query for the query log", query_id=query.answered.query_id, exc_info=error)
        return None


def _fail(future: "Future[T]", doing: str, error: Exception) -> None:
    """Let a future raise StorageFailed for what the disk refused, and other exceptions as they are."""
    if future.set_running_or_notify_cancel():
        future.set_exception(StorageFailed(doing, error) if isinstance(error, OSError) else error)
