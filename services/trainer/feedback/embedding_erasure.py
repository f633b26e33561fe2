"""Deletes the embeddings of erased texts from this machine, also when another trainer has erased them.

Each trainer has embeddings on its own disk, and may be away when something is erased. A file beside them says up to
which erasure they are clean. So a trainer that is back does the rest, and so does one whose disk was restored. A run
writes embeddings of what was said when it began, so before it does, it sets the file back (`mark_clean`).
"""

from pathlib import Path

from services.trainer.dataset.vectors import forget_vectors
from services.trainer.feedback.erasures import Erasures
from services.trainer.storage import replace_file, storage_errors

POSITION_FILE = "erased"


class EmbeddingErasure:
    """Keeps a folder of embeddings free of erased texts. It blocks; trainers may share the folder."""

    def __init__(self, erasures: Erasures, folder: Path) -> None:
        self._erasures = erasures
        self._folder = folder

    def catch_up(self) -> int:
        """Delete what was erased since the last call and return how many embeddings that were.

        Raises:
            StorageFailed: the database or the disk refused; the next call does the rest.

        """
        last, done = self._erasures.last(), self._read_position()
        if done == last or not self._folder.is_dir():
            return 0
        # The position is too high when the database was restored from an older backup: its erasures have new positions.
        begin = done if done < last else 0
        count = sum(forget_vectors(self._folder, keys) for keys in self._erasures.text_keys_after(begin))
        mark_clean(self._folder, last)
        return count

    def _read_position(self) -> int:
        with storage_errors("read which embeddings are erased"):
            try:
                return int((self._folder / POSITION_FILE).read_bytes())
            except (FileNotFoundError, NotADirectoryError, ValueError):
                return 0


def mark_clean(folder: Path, until: int) -> None:
    """Note that embeddings hold nothing of what was erased up to a position. Raises StorageFailed."""
    replace_file(folder / POSITION_FILE, str(until).encode())
