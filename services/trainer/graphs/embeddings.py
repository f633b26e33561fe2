"""Stores the embeddings of texts by a hash of the text, so that a retrain embeds only new texts.

There is one file for each model and encoder. A run that embeds something replaces it by the embeddings that this run
used: the file stays as large as the dataset, and the embedding of a deleted text is deleted too. Opening it costs
nothing, and a run needs memory for the embeddings that it asks for.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.language.encoder import Encoder, EncoderDamaged, load_encoder
from services.trainer.dataset.vectors import (
    SUFFIX,
    delete_former_files,
    digest_of,
    open_vectors,
    to_keys,
    write_vectors,
)
from services.trainer.errors import BrokenData


class EmbeddingStore:
    """Embeds texts, and looks them up first. Values are kept as float16, 2.3 KB for a text. Not thread-safe."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder = encoder
        self._path = folder / f"{encoder.name}{SUFFIX}"
        self._open()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float16 [n, columns] for texts as they were said."""
        digests = [digest_of(text) for text in texts]
        rows = self._stored.find(to_keys(digests))
        stored = rows >= 0
        self._is_used[rows[stored]] = True
        embeddings = np.empty((len(texts), self.encoder.columns), dtype=np.float16)
        embeddings[stored] = self._stored.rows[rows[stored]]
        others = np.flatnonzero(~stored).tolist()
        self._embed_new({digests[place]: texts[place] for place in others})
        for place in others:
            embeddings[place] = self._fresh[digests[place]]
        return embeddings

    def save(self) -> None:
        """Replace the file by the embeddings of all texts that were asked for, unless none of them is new.

        Raises:
            StorageFailed: the disk refused; the former file is still there.

        """
        if not self._fresh:
            return
        used, fresh = np.flatnonzero(self._is_used), list(self._fresh.values())

        def take(places: np.ndarray) -> np.ndarray:
            taken = np.empty((len(places), self.encoder.columns), dtype=np.float16)
            stored = places < len(used)
            taken[stored] = self._stored.rows[used[places[stored]]]
            for row in np.flatnonzero(~stored).tolist():
                taken[row] = fresh[places[row] - len(used)]
            return taken

        keys = np.concatenate([self._stored.keys[used], to_keys(self._fresh)])
        write_vectors(self._path, keys, self.encoder.columns, take)
        delete_former_files(self._path.parent)
        self._open()
        self._is_used[:] = True

    def _open(self) -> None:
        self._stored = open_vectors(self._path, self.encoder.columns)
        self._is_used = np.zeros(len(self._stored.keys), dtype=bool)
        self._fresh: dict[bytes, np.ndarray] = {}

    def _embed_new(self, texts: dict[bytes, str]) -> None:
        """Embed those of some texts, by their keys, that were not embedded since the file was opened."""
        missing = {key: text for key, text in texts.items() if key not in self._fresh}
        if missing:
            self._fresh.update(zip(missing, self.encoder.embed(list(missing.values())).astype(np.float16), strict=True))


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
