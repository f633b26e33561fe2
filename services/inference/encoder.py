"""The sentence encoder: text to embedding, on one thread. Built at set-up, shared by all versions.

The trainer has an encoder of its own, because services share no domain code; a contract test proves that both give the
same embeddings.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import json_format
from moodfood.registry.v1.manifest_pb2 import EncoderManifest
from tokenizers import Tokenizer

from services.inference.errors import EncoderRejected
from services.inference.linear import open_session

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENS = 128


class Encoder:
    """A loaded encoder. Safe to share between threads."""

    def __init__(self, name: str, columns: int, tokenizer: Tokenizer, session: onnxruntime.InferenceSession) -> None:
        self.name, self.columns = name, columns
        self._tokenizer = tokenizer
        self._session = session

    def embed(self, text: str) -> np.ndarray:
        """Return float32 [1, columns] for a text as it was said."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        (embedding,) = self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return np.asarray(embedding)


def load_encoder(folder: Path) -> Encoder | None:
    """Read and verify the encoder of a folder; None when there is none.

    Raises:
        EncoderRejected: it is there and damaged.

    """
    if not (folder / MANIFEST_FILE).is_file():
        return None
    try:
        manifest = json_format.Parse((folder / MANIFEST_FILE).read_text(encoding="utf-8"), EncoderManifest())
        contents = {listed.path: (folder / Path(listed.path).name).read_bytes() for listed in manifest.files}
        for listed in manifest.files:
            if hashlib.sha256(contents[listed.path]).hexdigest() != listed.sha256:
                raise EncoderRejected(f"the SHA-256 of {listed.path} is not the manifest's")
        tokenizer = Tokenizer.from_str(contents[TOKENIZER_FILE].decode())
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        encoder = Encoder(manifest.name, manifest.columns, tokenizer, open_session(contents[GRAPH_FILE]))
        if encoder.embed("warm up").shape != (1, manifest.columns):
            raise EncoderRejected("its embeddings have not the length of the manifest")
    except EncoderRejected:
        raise
    except Exception as error:  # the tokenizer and ONNX Runtime raise their own kinds
        raise EncoderRejected("a file of it cannot be read") from error
    return encoder
