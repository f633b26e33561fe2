"""The sentence encoder: text to embedding. It is built at set-up, shared by all versions, and never trained."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import json_format
from moodfood.registry.v1.manifest_pb2 import EncoderManifest
from tokenizers import Tokenizer

from services.language.session import open_session

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENS = 128


class EncoderDamaged(Exception):
    """The folder has an encoder, and it is not the one of its manifest or cannot be read."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the encoder is damaged, build it again: {problem}")


class Encoder:
    """A loaded encoder. Safe to share between threads."""

    def __init__(self, name: str, columns: int, tokenizer: Tokenizer, session: onnxruntime.InferenceSession) -> None:
        self.name, self.columns = name, columns
        self._tokenizer = tokenizer
        self._session = session

    def embed_one(self, text: str) -> np.ndarray:
        """Return float32 [1, columns] for a text as it was said, on one thread."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        (embedding,) = self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return np.asarray(embedding)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, columns] for texts as they were said, on every core that the process may use.

        Each text is a run of its own, as in serving: in a batch, texts would share the scales of their 8-bit
        activations and get other embeddings. It takes no longer; cores work side by side instead of on one batch.
        """
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            rows = list(pool.map(self.embed_one, texts))
        return np.concatenate(rows) if rows else np.zeros((0, self.columns), dtype=np.float32)


def load_encoder(folder: Path) -> Encoder | None:
    """Read and verify the encoder of a folder; None when there is none.

    Raises:
        EncoderDamaged: it is there, and a file of it cannot be read or has not the manifest's SHA-256.

    """
    if not (folder / MANIFEST_FILE).is_file():
        return None
    try:
        encoder = _read_encoder(folder)
        if encoder.embed_one("warm up").shape != (1, encoder.columns):
            raise EncoderDamaged("its embeddings have not the length of the manifest")
    except EncoderDamaged:
        raise
    except Exception as error:  # the tokenizer and ONNX Runtime raise their own kinds
        raise EncoderDamaged("a file of it cannot be read") from error
    return encoder


def _read_encoder(folder: Path) -> Encoder:
    manifest = json_format.Parse((folder / MANIFEST_FILE).read_text(encoding="utf-8"), EncoderManifest())
    contents = {listed.path: (folder / Path(listed.path).name).read_bytes() for listed in manifest.files}
    for listed in manifest.files:
        if hashlib.sha256(contents[listed.path]).hexdigest() != listed.sha256:
            raise EncoderDamaged(f"the SHA-256 of {listed.path} is not the manifest's")
    tokenizer = Tokenizer.from_str(contents[TOKENIZER_FILE].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return Encoder(manifest.name, manifest.columns, tokenizer, open_session(contents[GRAPH_FILE]))
