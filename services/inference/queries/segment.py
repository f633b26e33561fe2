"""A segment of a spool: a file of records whose positions follow one another. Its name is the position of the first.

A record is eight bytes and its content: how long the content is, and a checksum of both. A record without content
stands for one that was deleted, so that the others keep their positions. What follows the last whole record is ignored:
a killed process has left it.
"""

import errno
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

_HEADER = struct.Struct(">II")
_SUFFIX = ".records"


class Segment:
    """One file of a spool. The records that it counts are those that were there when it was opened, and its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = int(path.stem)
        self._descriptor: int | None = None
        # Where every record ends in the file.
        self._ends = array("Q")
        self._deleted = set[int]()
        for content in _parse(path.read_bytes()):
            self._count(content)

    @classmethod
    def create(cls, folder: Path, first: int) -> "Segment":
        """Make an empty segment whose first record will have a position. Raises OSError."""
        path = folder / f"{first:020}{_SUFFIX}"
        path.touch()
        return cls(path)

    @classmethod
    def read_all(cls, folder: Path) -> list["Segment"]:
        """Return the segments of a folder, oldest first. Raises OSError."""
        paths = [path for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal()]
        return [cls(path) for path in sorted(paths)]

    @property
    def next(self) -> int:
        """The position after the last record."""
        return self.first + len(self._ends)

    @property
    def size(self) -> int:
        """Size of the records in bytes."""
        return self._ends[-1] if self._ends else 0

    def count_after(self, position: int) -> int:
        """Return how many records have a larger position and were not deleted."""
        begin = max(0, position + 1 - self.first)
        return max(0, len(self._ends) - begin) - sum(index >= begin for index in self._deleted)

    def append(self, contents: Sequence[bytes]) -> None:
        """Write records at the end. Raises OSError when the disk does not take all of them; then none is there."""
        data = b"".join(map(_frame, contents))
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
                # A killed process, or a write that failed, has left a part of a record behind.
                os.ftruncate(self._descriptor, self.size)
            if os.write(self._descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.close()
            raise
        for content in contents:
            self._count(content)

    def read(self, position: int, most: int, most_bytes: int) -> tuple[int, list[bytes]]:
        """Return records that follow one another, from the first one after a position that was not deleted.

        Returns the position of the last of them, and their contents; at least one if there is one. Raises OSError.
        """
        begin = max(0, position + 1 - self.first)
        while begin in self._deleted:
            begin += 1
        end, start = begin, self._start(begin)
        while (
            end < len(self._ends)
            and end not in self._deleted
            and end - begin < most
            and (end == begin or self._ends[end] - start <= most_bytes)
        ):
            end += 1
        with self.path.open("rb") as file:
            file.seek(start)
            return self.first + end - 1, list(_parse(file.read(self._start(end) - start)))

    def forget(self, is_doomed: Callable[[bytes], bool]) -> int:
        """Delete records. Returns how many. Raises OSError when the file cannot be rewritten; then none is."""
        contents = list(_parse(self.path.read_bytes()[: self.size]))
        doomed = {index for index, content in enumerate(contents) if content and is_doomed(content)}
        if not doomed:
            return 0
        kept = [b"" if index in doomed else content for index, content in enumerate(contents)]
        new = self.path.with_suffix(".new")
        new.write_bytes(b"".join(map(_frame, kept)))
        new.replace(self.path)
        self.close()
        self._ends, self._deleted = array("Q"), set()
        for content in kept:
            self._count(content)
        return len(doomed)

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file. The next append opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _start(self, index: int) -> int:
        return self._ends[index - 1] if index else 0

    def _count(self, content: bytes) -> None:
        if not content:
            self._deleted.add(len(self._ends))
        self._ends.append(self.size + _HEADER.size + len(content))


def split(contents: Iterable[bytes], most_bytes: int) -> Iterator[list[bytes]]:
    """Yield the contents in groups that take at most so many bytes in a segment, or that are a single one."""
    group, size = list[bytes](), 0
    for content in contents:
        if group and size + _HEADER.size + len(content) > most_bytes:
            yield group
            group, size = [], 0
        group.append(content)
        size += _HEADER.size + len(content)
    if group:
        yield group


def _frame(content: bytes) -> bytes:
    length = len(content)
    return _HEADER.pack(length, _checksum(length, content)) + content


def _checksum(length: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(length.to_bytes(4, "big")))


def _parse(data: bytes) -> Iterator[bytes]:
    """Yield the contents of the records up to the first one that is not whole."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        content = data[offset : offset + length]
        if len(content) < length or _checksum(length, content) != checksum:
            return
        offset += length
        yield content
