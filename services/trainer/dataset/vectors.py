"""Keeps a vector for each of many texts in one file, which is mapped into memory and never read as a whole.

    what the file is, number of columns, number of rows | the texts' hashes, sorted | their vectors in the same order

A search touches a few pages of the hashes, and a vector that is asked for touches its own. The file is replaced by a
rename, so hashes and vectors always belong together.

A hash begins with the key of the text (`text_key`), which all spellings of it share. So the vectors of a text can be
deleted by who knows its key and not the text.
"""

import hashlib
import mmap
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.trainer.dataset.words import text_key
from services.trainer.storage import replacing, storage_errors

SUFFIX = ".vectors"
# Earlier releases wrote compressed files, which had to be read as a whole.
FORMER_SUFFIX = ".npz"
ROWS_AT_ONCE = 4096
KEY_BYTES = 16
_TEXT_KEY_BYTES = 8

_HEADER = struct.Struct("<16sQQ")
_MAGIC = b"moodfood vectors"
_KEY = np.dtype(f"S{KEY_BYTES}")
_NUMBER = np.dtype("<f2")


@dataclass(frozen=True)
class Vectors:
    """The content of a file: the sorted keys [n] and the vectors float16 [n, columns], both mapped into memory."""

    keys: np.ndarray
    rows: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the row of each of some keys, int [n_keys]; -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)


def digest_of(text: str) -> bytes:
    """Return the hash of a text, KEY_BYTES long."""
    spelling = hashlib.sha256(text.encode()).digest()
    return bytes.fromhex(text_key(text)) + spelling[: KEY_BYTES - _TEXT_KEY_BYTES]


def to_keys(digests: Iterable[bytes]) -> np.ndarray:
    """Return the keys of texts as an array, in the given order."""
    return np.array(list(digests), dtype=_KEY)


def open_vectors(path: Path, columns: int = 0) -> Vectors:
    """Return what a file holds. A file that is missing, damaged or has other columns counts as empty.

    Args:
        path: the file.
        columns: how many columns the vectors must have; 0 accepts what the file has.

    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, width, count = _HEADER.unpack_from(content)
    except (OSError, ValueError, struct.error):
        magic, width, count, content = b"", columns, 0, None
    size = _HEADER.size + count * (KEY_BYTES + width * _NUMBER.itemsize)
    if content is None or magic != _MAGIC or len(content) != size or columns not in (0, width):
        return Vectors(np.empty(0, _KEY), np.empty((0, columns), _NUMBER))
    keys = np.frombuffer(content, _KEY, count, _HEADER.size)
    rows = np.frombuffer(content, _NUMBER, count * width, _HEADER.size + count * KEY_BYTES)
    return Vectors(keys, rows.reshape(count, width))


def write_vectors(path: Path, keys: np.ndarray, columns: int, take: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace a file.

    Args:
        path: the file.
        keys: the keys of all vectors, different from one another, in any order.
        columns: of the vectors.
        take: returns the vectors float16 [n, columns] of the keys at n places in `keys`. It is asked for ROWS_AT_ONCE.

    Raises:
        StorageFailed: the disk refused; the former file is still there.

    """
    order = np.argsort(keys)
    with replacing(path) as file:
        file.write(_HEADER.pack(_MAGIC, columns, len(keys)))
        for start in range(0, len(order), ROWS_AT_ONCE):
            file.write(keys[order[start : start + ROWS_AT_ONCE]].tobytes())
        for start in range(0, len(order), ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(take(order[start : start + ROWS_AT_ONCE]), _NUMBER).tobytes())


def forget_vectors(folder: Path, text_keys: Collection[str]) -> int:
    """Delete the vectors of all spellings of some texts from all files of a folder, and return how many there were.

    Files that are damaged or half-written are deleted: nobody can use them, and they may hold a vector of these texts.

    Raises:
        StorageFailed: the disk refused; call it again.

    """
    delete_former_files(folder)
    if not text_keys:
        return 0
    first, count = sorted(bytes.fromhex(key) for key in text_keys), 0
    with storage_errors("delete embeddings"):
        for path in folder.glob(f".*{SUFFIX}.*"):
            path.unlink(missing_ok=True)
        for path in folder.glob(f"[!.]*{SUFFIX}"):
            count += _forget(path, first)
    return count


def delete_former_files(folder: Path) -> None:
    """Delete the files of earlier releases; their texts can be embedded again.

    Raises:
        StorageFailed: the disk refused.

    """
    with storage_errors("delete old embeddings"):
        for path in (*folder.glob(f"*{FORMER_SUFFIX}"), *folder.glob(f".*{FORMER_SUFFIX}.*")):
            path.unlink(missing_ok=True)


def _forget(path: Path, text_keys: list[bytes]) -> int:
    """Delete the vectors whose hashes begin with one of some keys."""
    stored = open_vectors(path)
    is_kept = np.ones(len(stored.keys), dtype=bool)
    begins = np.searchsorted(stored.keys, to_keys(text_keys))
    ends = np.searchsorted(stored.keys, to_keys(key.ljust(KEY_BYTES, b"\xff") for key in text_keys), side="right")
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        is_kept[begin:end] = False
    kept = np.flatnonzero(is_kept)
    if not len(kept):
        path.unlink(missing_ok=True)
    elif len(kept) < len(stored.keys):
        write_vectors(path, stored.keys[kept], stored.rows.shape[1], lambda places: stored.rows[kept[places]])
    return len(stored.keys) - len(kept)
