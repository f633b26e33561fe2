"""Stores the embeddings of texts by a hash of the text, so that a retrain embeds only new texts.

There is one file for each model and encoder. A run that embeds something replaces it by the embeddings that this run
used: the file stays as large as the dataset, and the embedding of a deleted text is deleted too.
"""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.language.encoder import Encoder, EncoderDamaged, load_encoder
from services.trainer.errors import BrokenData
from services.trainer.storage import replace_file

KEY_BYTES = 16


class EmbeddingStore:
    """Embeds texts, and looks them up first. Values are kept as float16, 2.3 KB for a text. Not thread-safe."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder = encoder
        self._path = folder / f"{encoder.name}.npz"
        self._known = self._read()
        self._used: dict[bytes, np.ndarray] = {}
        self._embedded = 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float16 [n, columns] for texts as they were said."""
        keys = [hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if missing:
            fresh = self.encoder.embed(list(missing.values())).astype(np.float16)
            self._known.update(zip(missing, fresh, strict=True))
            self._embedded += len(missing)
        self._used.update((key, self._known[key]) for key in keys)
        embeddings = np.empty((len(keys), self.encoder.columns), dtype=np.float16)
        for row, key in enumerate(keys):
            embeddings[row] = self._known[key]
        return embeddings

    def save(self) -> None:
        """Replace the file by the embeddings of all texts that were asked for, unless none of them is new.

        Raises:
            StorageFailed: the disk refused; the former file is still there.

        """
        if not self._embedded:
            return
        content = io.BytesIO()
        keys = np.frombuffer(b"".join(self._used), dtype=np.uint8).reshape(-1, KEY_BYTES)
        np.savez(content, keys=keys, embeddings=np.stack(list(self._used.values())))
        replace_file(self._path, content.getbuffer())
        self._embedded = 0

    def _read(self) -> dict[bytes, np.ndarray]:
        """Return the stored embeddings; none when the file cannot be read, since the texts can be embedded again."""
        try:
            with np.load(io.BytesIO(self._path.read_bytes())) as stored:
                keys, embeddings = stored["keys"], stored["embeddings"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}
        if embeddings.ndim != 2 or embeddings.shape[1] != self.encoder.columns or len(keys) != len(embeddings):
            return {}
        return {key.tobytes(): row for key, row in zip(keys, embeddings, strict=True)}


def open_embeddings(encoder_dir: str, folder: Path) -> EmbeddingStore | None:
    """Return the store of the encoder in a folder, or None when no folder is named or it has no encoder.

    Raises:
        BrokenData: the encoder is there and damaged.

    """
    try:
        encoder = load_encoder(Path(encoder_dir)) if encoder_dir else None
    except EncoderDamaged as error:
        raise BrokenData(str(error)) from error
    return EmbeddingStore(encoder, folder) if encoder is not None else None
