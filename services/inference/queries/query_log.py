"""The query log: lines of JSON for operators. One thread uses it; see query_writer.py.

A process owns its file by a lock on the file itself. The first process on a machine has `query_logs.jsonl`, the next
one `query_logs-2.jsonl`, and so on. Others may append whole lines to it: the trainer writes its events there.
"""

import contextlib
import errno
import io
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.inference.queries.file_lock import is_at, open_locked

# Somebody who had opened a file before it was replaced has written to it after this time.
LATE_SECONDS = 5.0

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT


@dataclass
class _Replaced:
    """A file that another one has replaced, and up to where its lines were copied."""

    descriptor: int
    offset: int
    until: float


class QueryLog:
    """The file of this process, with its rotated files."""

    def __init__(self, path: Path, max_bytes: int, keep_files: int) -> None:
        self.path = path
        self._first_path = path
        self._max_bytes = max_bytes
        self._keep_files = keep_files
        self._descriptor: int | None = None
        self._replaced: list[_Replaced] = []

    def open(self) -> None:
        """Take a file. The other methods do it too, if it was not done. Raises OSError."""
        self._open_current()

    def write(self, lines: Sequence[bytes]) -> int:
        """Append lines, which have their ends. Returns how many the disk took; the others may be written again.

        What a full disk left of a line is taken back. Raises OSError when the disk took none.
        """
        descriptor = self._open_current()
        content = b"".join(lines)
        written = os.write(descriptor, content)
        if written == len(content):
            return len(lines)
        whole = content.rfind(b"\n", 0, written) + 1
        _take_back(descriptor, written - whole)
        if whole == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return content.count(b"\n", 0, whole)

    def rotate_if_full(self) -> None:
        """Begin a new file if this one is full. Raises OSError; the present file is then still written to."""
        descriptor = self._open_current()
        if os.fstat(descriptor).st_size < self._max_bytes:
            return
        for number in range(self._keep_files - 1, 0, -1):
            if self._rotated(number).exists():
                self._rotated(number).replace(self._rotated(number + 1))
        if self._keep_files:
            self._rotated(1).unlink(missing_ok=True)
            try:
                # A link and not a rename: the path names a file of ours at every moment, so nobody else takes it.
                os.link(self.path, self._rotated(1))
            except OSError:
                # A disk that knows no links.
                self.path.replace(self._rotated(1))
        self._descriptor = _replace(self.path, ())
        os.close(descriptor)

    def forget(self, is_doomed: Callable[[bytes], bool], between: Callable[[], None]) -> int:
        """Delete lines from the files of this process, and from those that dead processes left. Returns how many.

        `between` is called after every file, so that what waits meanwhile can be written. A kill leaves every file as
        it was or without the lines. Raises OSError when a file cannot be rewritten; call it again.
        """
        count = self._forget_own(is_doomed, between)
        others = self._first_path.parent.glob(f"{self._first_path.stem}-[0-9]*{self._first_path.suffix}")
        for path in {self._first_path, *others} - {self.path}:
            descriptor = open_locked(path, _APPEND)
            if descriptor is not None:
                left = QueryLog(path, self._max_bytes, self._keep_files)
                left._descriptor = descriptor
                count += left._forget_own(is_doomed, between)
                left.close()
        return count

    @property
    def has_replaced(self) -> bool:
        """Whether `save_late_lines` must be called again soon."""
        return bool(self._replaced)

    def save_late_lines(self) -> None:
        """Copy what somebody else appended to a file while another one took its place. Raises OSError."""
        for replaced in list(self._replaced):
            size = os.fstat(replaced.descriptor).st_size
            late = os.pread(replaced.descriptor, size - replaced.offset, replaced.offset)
            lines = io.BytesIO(late[: late.rfind(b"\n") + 1]).readlines()
            if lines:
                replaced.offset += sum(map(len, lines[: self.write(lines)]))
            if time.monotonic() > replaced.until:
                self._replaced.remove(replaced)
                os.close(replaced.descriptor)

    def state(self) -> tuple[int, int, float | None]:
        """Return the size of the file in bytes, the number of rotated files, and when it was last written."""
        rotated = 0
        try:
            rotated = sum(self._rotated(number).exists() for number in range(1, self._keep_files + 1))
            state = self.path.stat()
        except OSError:
            return 0, rotated, None
        return state.st_size, rotated, state.st_mtime

    def close(self) -> None:
        """Close the files, which frees the lock. The next write opens a file again."""
        with contextlib.suppress(OSError):
            self.save_late_lines()
        while self._replaced:
            os.close(self._replaced.pop().descriptor)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open_current(self) -> int:
        """Return the descriptor of this process's file. A file that somebody has moved away is given up."""
        if self._descriptor is not None and not is_at(self.path, self._descriptor):
            os.close(self._descriptor)
            self._descriptor = None
        if self._descriptor is None:
            self._first_path.parent.mkdir(parents=True, exist_ok=True)
            self.path, self._descriptor = self._take_file()
            self._mend(self._descriptor)
        return self._descriptor

    def _take_file(self) -> tuple[Path, int]:
        path, number = self._first_path, 1
        while (descriptor := open_locked(path, _APPEND)) is None:
            number += 1
            path = path.with_name(f"{self._first_path.stem}-{number}{self._first_path.suffix}")
        return path, descriptor

    def _mend(self, descriptor: int) -> None:
        """End the line that a killed process left torn, and undo what it left half done."""
        for unfinished in self.path.parent.glob(f".{self.path.name}.*new"):
            unfinished.unlink()
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        if is_at(self._rotated(1), descriptor):
            self._rotated(1).unlink()

    def _rotated(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _forget_own(self, is_doomed: Callable[[bytes], bool], between: Callable[[], None]) -> int:
        # The current file first: what a rotation adds to the others meanwhile is clean, and those that are not done yet
        # move towards the end.
        count = self._forget_current(is_doomed)
        for number in range(1, self._keep_files + 1):
            between()
            path = self._rotated(number)
            doomed = sum(map(is_doomed, _read_lines(path)))
            if doomed:
                os.close(_replace(path, itertools.filterfalse(is_doomed, _read_lines(path))))
            count += doomed
        return count

    def _forget_current(self, is_doomed: Callable[[bytes], bool]) -> int:
        descriptor = self._open_current()
        size = os.fstat(descriptor).st_size
        doomed = sum(map(is_doomed, _read_lines(self.path, size)))
        if doomed:
            kept = itertools.filterfalse(is_doomed, _read_lines(self.path, size))
            self._descriptor = _replace(self.path, kept)
            self._replaced.append(_Replaced(descriptor, size, time.monotonic() + LATE_SECONDS))
        return doomed


def _read_lines(path: Path, size: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a file, or of its first bytes, with their ends; none if there is no file."""
    try:
        with path.open("rb") as file:
            while (size is None or file.tell() < size) and (line := file.readline()):
                yield line
    except FileNotFoundError:
        return


def _replace(path: Path, lines: Iterable[bytes]) -> int:
    """Put a new file in the place of another one, locked before it gets there. Returns its descriptor."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = open_locked(new, _APPEND | os.O_EXCL)
    if descriptor is None:
        raise OSError(f"somebody else has locked {new.name}")
    try:
        with open(descriptor, "ab", closefd=False) as file:
            file.writelines(lines)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except OSError:
        os.close(descriptor)
        new.unlink(missing_ok=True)
        raise
    return descriptor


def _take_back(descriptor: int, count: int) -> None:
    """Cut off the last bytes of this process's last write, unless somebody else has appended since."""
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    if os.fstat(descriptor).st_size == end:
        os.ftruncate(descriptor, end - count)
