"""Durable writes to a folder. A write survives a kill at any moment. What the system refuses is an OSError."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

UNFINISHED_PREFIX = ".unfinished-"


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable.

    What was renamed is there for everybody already, so a disk that refuses fails nothing: it may at most be as before
    after a loss of power, which a kill of the process at that moment would have led to as well.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a new file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Replace a file so that readers see the old content or the new, never a part. On an error, nothing was changed."""
    with replacing(path) as temporary:
        write_synced(temporary, content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a hidden file that the block writes and syncs, and that replaces the file afterwards."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def adding_folder(folder: Path) -> Iterator[Path]:
    """Give a hidden folder that the block fills with synced files, and that becomes the folder afterwards.

    Raises:
        FileExistsError: the folder is there already, with something in it.

    """
    unfinished = hidden_name(folder.parent)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        sync_folder(unfinished)
        try:
            unfinished.rename(folder)
        except OSError as error:  # some systems call a folder that is not empty ENOTEMPTY, others EEXIST
            if folder.exists():
                raise FileExistsError(error.errno, "it is there already") from error
            raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once for everybody, by a rename. What a kill leaves is hidden. No error if there is none."""
    hidden = hidden_name(folder.parent)
    try:
        folder.rename(hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden, ignore_errors=True)


def remove_hidden(parent: Path, older_than_seconds: float = 0.0) -> None:
    """Remove the hidden folders that killed processes left in a folder.

    Who is still writing to one, because it was only taken for dead, fails and adds no part of it: like every removal,
    this begins with a rename.
    """
    with contextlib.suppress(OSError):
        for leftover in parent.glob(f"{UNFINISHED_PREFIX}*"):
            if leftover.stat().st_mtime <= time.time() - older_than_seconds:
                remove_folder(leftover)


def hidden_name(parent: Path) -> Path:
    """Return the path of a new hidden folder inside a folder."""
    return parent / f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
