"""Remembers the embeddings of texts by a hash of their content, so that a retrain embeds only what is new.

One file for a model and an encoder, replaced as a whole after a run that had something to embed. It holds what that run
needed and nothing else, so it stays as large as the dataset, and a text that is no longer learned from leaves it.
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
    """Embeds texts, looking up first. Values are kept in float16: 2.3 KB for each text."""

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
        """Write what was asked for, if any of it is new.

        Raises:
            StorageFailed: the disk refused; what was there before is still there.

        """
        if not self._embedded:
            return
        content = io.BytesIO()
        keys = np.frombuffer(b"".join(self._used), dtype=np.uint8).reshape(-1, KEY_BYTES)
        np.savez(content, keys=keys, embeddings=np.stack(list(self._used.values())))
        replace_file(self._path, content.getbuffer())
        self._embedded = 0

    def _read(self) -> dict[bytes, np.ndarray]:
        """Return what is stored; a file that cannot be read only costs the time to embed again."""
        try:
            with np.load(io.BytesIO(self._path.read_bytes())) as stored:
                keys, embeddings = stored["keys"], stored["embeddings"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}
        if embeddings.ndim != 2 or embeddings.shape[1] != self.encoder.columns or len(keys) != len(embeddings):
            return {}
        return {key.tobytes(): row for key, row in zip(keys, embeddings, strict=True)}


def open_embeddings(encoder_dir: str, folder: Path) -> EmbeddingStore | None:
    """Return the store for the encoder of a folder, or None when none is named or there.

    Raises:
        BrokenData: the encoder is there and damaged.

    """
    try:
        encoder = load_encoder(Path(encoder_dir)) if encoder_dir else None
    except EncoderDamaged as error:
        raise BrokenData(str(error)) from error
    return EmbeddingStore(encoder, folder) if encoder is not None else None
