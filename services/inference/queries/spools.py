"""The spools of this process: the one that it writes to, and those that dead processes have left.

A process owns a spool by a lock on its folder. When it starts, it takes every spool that nobody owns. It writes to one
of them; it delivers what is in the others and removes them. One thread uses them; see query_writer.py.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from moodfood.events.v1.events_pb2 import QueryRecord

from services.inference.queries.file_lock import open_locked
from services.inference.queries.spool import RECORDS_FILE, Batch, Spool

_log = structlog.get_logger()


class Spools:
    """The spools of this process. They are taken at the first use, and again after somebody has removed their folders.

    Every method raises OSError when the disk refuses. With max_bytes 0 there are no spools and nothing is kept.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._owned: list[Spool] = []
        # Folders that could not be taken over, so that operators read of each of them once.
        self._refused = set[Path]()
        # Dropped records that no spool has counted yet, and those of spools that are removed.
        self._lost = 0
        self._dropped_before = 0

    def open(self) -> None:
        """Take the spools. The other methods do it too, if it was not done."""
        if self._max_bytes:
            self._take()

    def append(self, contents: Sequence[bytes]) -> None:
        """Add serialised records. Those that the disk did not take are counted as dropped."""
        if not self._max_bytes:
            return
        try:
            spool = self._take()[0]
        except OSError:
            self._lost += len(contents)
            raise
        try:
            spool.append(contents)
        except FileNotFoundError:
            self._lost += spool.dropped
            self.close()
            raise

    def count_dropped(self, count: int) -> None:
        """Count records that were lost before they came here."""
        if count and self._max_bytes:
            self._lost += count
            self._take()[0].count_dropped(0)

    def read(self) -> Batch | None:
        """Return the oldest records that are not acknowledged, those of dead processes first, or None."""
        if not self._max_bytes:
            return None
        for spool in reversed(self._take()):
            try:
                batch = spool.read()
            except FileNotFoundError:
                self.close()
                raise
            if batch is not None:
                return batch
        return None

    def acknowledge(self, spool_id: str, position: int) -> None:
        """Delete the records of a spool up to a position, inclusive. A spool that is not ours is ignored."""
        for spool in self._owned:
            if spool.spool_id == spool_id:
                spool.acknowledge(position)
        self._remove_empty()

    def forget(self, is_doomed: Callable[[QueryRecord], bool], between: Callable[[], None]) -> int:
        """Delete records. Returns how many. `between` is called after every spool."""
        count = 0
        for spool in self._take() if self._max_bytes else ():
            count += spool.forget(is_doomed)
            between()
        return count

    def state(self) -> tuple[int, int, int, str]:
        """Return how many records wait, how many were dropped since the spools began, the bytes, and the present id."""
        waiting = sum(spool.waiting for spool in self._owned)
        dropped = self._lost + self._dropped_before + sum(spool.dropped for spool in self._owned)
        size = sum(spool.size for spool in self._owned)
        return waiting, dropped, size, self._owned[0].spool_id if self._owned else ""

    def close(self) -> None:
        """Free the locks. The next use takes spools again."""
        for spool in self._owned:
            spool.close()
        self._owned = []

    def _take(self) -> list[Spool]:
        """Return the spools of this process; the first is the one to write to."""
        if not self._owned:
            self._folder.mkdir(parents=True, exist_ok=True)
            for folder in sorted(path for path in self._folder.iterdir() if path.is_dir()):
                self._take_over(folder)
            while not self._owned:
                folder = self._folder / uuid.uuid4().hex
                folder.mkdir()
                self._lock(folder)
            self._remove_empty()
        if self._lost:
            lost, self._lost = self._lost, 0
            self._owned[0].count_dropped(lost)
        return self._owned

    def _take_over(self, folder: Path) -> None:
        """Take what a dead process has left. A folder that cannot be used must not keep this process from writing."""
        try:
            self._lock(folder, is_new=False)
        except OSError as error:
            if folder not in self._refused:
                _log.warning("cannot take over a spool", folder=str(folder), problem=error.strerror)
            self._refused.add(folder)

    def _lock(self, folder: Path, *, is_new: bool = True) -> None:
        """Open a spool, unless another process owns it or has just removed it."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = open_locked(folder, os.O_RDONLY)
            if descriptor is None:
                return
            if not is_new and not (folder / RECORDS_FILE).exists():
                # A process that died at once has left it; or it is none of ours, and then it is not empty.
                with contextlib.suppress(OSError):
                    folder.rmdir()
                os.close(descriptor)
                return
            try:
                self._owned.append(Spool(folder, descriptor, self._max_bytes))
            except OSError:
                if is_new:
                    # The next attempt makes another one.
                    shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
                raise

    def _remove_empty(self) -> None:
        """Remove the spools of dead processes that hold nothing any more."""
        for spool in [spool for spool in self._owned[1:] if not spool.waiting]:
            self._owned.remove(spool)
            self._dropped_before += spool.dropped
            spool.remove()
