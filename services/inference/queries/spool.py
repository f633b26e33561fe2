"""A spool: query records that wait for the trainer, in a folder of segments that is named by a random id.

Every record gets a position, one more than the record before it. Positions never come again, also after a restart or a
kill. Records that the trainer has stored are deleted. When the spool is too large, its oldest segment is dropped and
its records are counted.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from moodfood.events.v1.events_pb2 import QueryRecord

from services.inference.queries.segment import Segment, split

MAX_BATCH_RECORDS = 500
MAX_BATCH_BYTES = 1024 * 1024
# A spool has about so many segments when it is full, so that about this share of it is dropped at once.
SEGMENTS = 16
MAX_SEGMENT_BYTES = 4 * 1024 * 1024
# A machine that loses its power may forget the newest records, which the trainer may have stored. Their positions must
# not be given to other records. So after a start of the machine, the positions jump by more than can have been lost.
JUMP = 2**32

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.get_logger()


@dataclass(frozen=True)
class Batch:
    """Records of a spool whose positions follow one another; `position` is that of the last.

    `dropped` counts the records of the spool that were lost so far.
    """

    spool_id: str
    position: int
    records: Sequence[QueryRecord]
    dropped: int


class Spool:
    """One folder of segments, which this process has locked."""

    def __init__(self, folder: Path, descriptor: int, max_bytes: int) -> None:
        """Open a spool whose folder is locked by the descriptor. Without segments it is a new one. Raises OSError."""
        self.spool_id = folder.name
        self._folder = folder
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._segment_bytes = min(max(1, max_bytes // SEGMENTS), MAX_SEGMENT_BYTES)
        self._acknowledged = 0
        self._full = False
        self._segments = Segment.read_all(folder)
        self.dropped = 0
        self._open_state()

    @property
    def waiting(self) -> int:
        """Number of records that are not acknowledged."""
        return sum(segment.count_after(self._acknowledged) for segment in self._segments)

    @property
    def size(self) -> int:
        """Size of the segments in bytes."""
        return sum(segment.size for segment in self._segments)

    def append(self, contents: Sequence[bytes]) -> None:
        """Add serialised records. Raises OSError. Those that the disk did not take are counted as dropped."""
        left = len(contents)
        try:
            for group in split(contents, self._segment_bytes):
                if self._segments[-1].size >= self._segment_bytes:
                    self._begin_segment(self._segments[-1].next)
                self._segments[-1].append(group)
                left -= len(group)
                self._drop_oldest()
        except OSError:
            self.count_dropped(left)
            raise

    def read(self) -> Batch | None:
        """Return the oldest records that are not acknowledged; None if there are none. Raises OSError."""
        for segment in self._segments:
            if segment.count_after(self._acknowledged):
                position, contents = segment.read(self._acknowledged, MAX_BATCH_RECORDS, MAX_BATCH_BYTES)
                records = [QueryRecord.FromString(content) for content in contents]
                return Batch(self.spool_id, position, records, self.dropped)
        return None

    def acknowledge(self, position: int) -> None:
        """Delete the records up to a position, inclusive. Raises OSError."""
        self._full = False
        last = self._segments[-1].next - 1
        self._acknowledged = max(self._acknowledged, min(position, last))
        if self._acknowledged == last and self._segments[-1].size:
            # The name of the last segment keeps the next position, so there is always one.
            self._begin_segment(last + 1)
        while len(self._segments) > 1 and self._segments[0].next <= self._acknowledged + 1:
            self._segments.pop(0).remove()

    def forget(self, is_doomed: Callable[[QueryRecord], bool]) -> int:
        """Delete records. Returns how many. Raises OSError; call it again."""
        return sum(
            segment.forget(lambda content: is_doomed(QueryRecord.FromString(content))) for segment in self._segments
        )

    def count_dropped(self, count: int) -> None:
        """Count records that were lost. A disk that refuses keeps the count until the next start only."""
        if count:
            self.dropped += count
            with contextlib.suppress(OSError):
                self._write_state()

    def close(self) -> None:
        """Close the files and free the lock."""
        for segment in self._segments:
            segment.close()
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the folder and free the lock."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def _begin_segment(self, first: int) -> None:
        self._segments[-1].close()
        self._segments.append(Segment.create(self._folder, first))

    def _drop_oldest(self) -> None:
        while len(self._segments) > 1 and self.size > self._max_bytes:
            oldest = self._segments.pop(0)
            lost = oldest.count_after(self._acknowledged)
            oldest.remove()
            self.count_dropped(lost)
            if lost and not self._full:
                # Once, and not for every segment that goes; the counts say how many follow.
                _log.warning("the spool is full: its oldest records are dropped", max_bytes=self._max_bytes)
                self._full = True

    @property
    def _state_path(self) -> Path:
        return self._folder / "state.json"

    def _open_state(self) -> None:
        """Read the count of dropped records, and jump to new positions if the machine has started since."""
        for unfinished in self._folder.glob("*.new"):
            unfinished.unlink()
        boot_id = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(self._state_path.read_text())
            self.dropped, boot_id = int(state["dropped"]), str(state["boot_id"])
        if not self._segments:
            self._segments.append(Segment.create(self._folder, 1))
        elif boot_id != _read_boot_id():
            self._begin_segment(self._segments[-1].next + JUMP)
        else:
            return
        self._write_state()

    def _write_state(self) -> None:
        new = self._state_path.with_suffix(".new")
        new.write_text(json.dumps({"dropped": self.dropped, "boot_id": _read_boot_id()}))
        new.replace(self._state_path)


def _read_boot_id() -> str:
    """Return what identifies this start of the machine; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
