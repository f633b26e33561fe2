"""The one way to the disk: files, lines, and messages as JSON.

A write survives a kill at any moment: a whole file is replaced by a rename, a line is appended and synced. What the
disk refuses is StorageFailed, whatever the cause.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from services.repository import disk
from services.repository.errors import RepositoryUnavailable
from services.trainer.errors import StorageFailed

M = TypeVar("M", bound=Message)


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn what the system refuses inside the block into StorageFailed, "cannot <doing>: <why>"."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"cannot {doing}: {error.strerror}") from error


@contextlib.contextmanager
def repository_errors() -> Iterator[None]:
    """Turn RepositoryUnavailable inside the block into StorageFailed, with the same text."""
    try:
        yield
    except RepositoryUnavailable as error:
        raise StorageFailed(str(error)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty file that takes the place of a file when the block ends well; readers never see a part of it.

    Raises:
        StorageFailed: nothing was changed.

    """
    with storage_errors(f"write {path.name}"), disk.replacing(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Replace a file so that readers see the old content or the new, never a part.

    Raises:
        StorageFailed: nothing was changed.

    """
    with storage_errors(f"write {path.name}"):
        disk.replace_file(path, content)


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines with one write and wait until they are on disk; a torn line before them is closed first.

    Raises:
        StorageFailed: none of the lines counts as written; what a full disk left of them is cut off again.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            content = ("\n" if torn else "").encode() + "".join(f"{line}\n" for line in lines).encode()
            written = os.write(descriptor, content)
            if written != len(content):
                _take_back(descriptor, written)
                raise StorageFailed(f"cannot append to {path.name}: the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageFailed(f"cannot append to {path.name}: {error.strerror}") from error


def _take_back(descriptor: int, written: int) -> None:
    """Cut off what the last write left, unless another process has appended since."""
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    if os.fstat(descriptor).st_size == end:
        os.ftruncate(descriptor, end - written)


def to_json(message: Message, indent: int | None = 2) -> str:
    """Return a message as JSON with the proto's field names, defaults written out."""
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=indent, always_print_fields_with_no_presence=True
    )


def parse_message(content: str | bytes, message: M) -> M | None:
    """Return a message filled from JSON; None if it cannot be read."""
    try:
        return json_format.Parse(content, message, ignore_unknown_fields=True)
    except (ValueError, json_format.ParseError):
        return None
