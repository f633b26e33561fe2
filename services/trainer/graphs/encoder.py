"""The sentence encoder: text to embedding. It is built at set-up, shared by all versions, and never trained here.

Inference has an encoder of its own, because services share no domain code; a contract test proves that both give the
same embeddings.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from moodfood.registry.v1.manifest_pb2 import EncoderManifest
from tokenizers import Tokenizer

from services.trainer.graphs.session import open_session

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENS = 128


class Encoder:
    """An encoder read from its folder. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        manifest = json_format.Parse((folder / MANIFEST_FILE).read_text(encoding="utf-8"), EncoderManifest())
        self.name, self.columns = manifest.name, manifest.columns
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._session = open_session(folder / GRAPH_FILE)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, columns] for texts as they were said, on every core that the process may use.

        Each text is a run of its own, as in serving: in a batch, texts would share the scales of their 8-bit
        activations and get other embeddings. It takes no longer; cores work side by side instead of on one batch.
        """
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            rows = list(pool.map(self.embed_one, texts))
        return np.concatenate(rows) if rows else np.zeros((0, self.columns), dtype=np.float32)

    def embed_one(self, text: str) -> np.ndarray:
        """Return float32 [1, columns], on one thread."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        (embedding,) = self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return np.asarray(embedding)


def open_encoder(folder: str) -> Encoder | None:
    """Return the encoder of a folder, or None when none is named or there."""
    path = Path(folder)
    return Encoder(path) if folder and (path / MANIFEST_FILE).is_file() else None
