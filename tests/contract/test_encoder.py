"""The encoder that set-up built is the recorded model, and what is not it is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from moodfood.registry.v1.manifest_pb2 import EncoderManifest
from tokenizers import Tokenizer

from scripts import build_encoder
from services.language.encoder import load_encoder
from tests.conftest import ENCODER


def manifest() -> EncoderManifest:
    return json_format.Parse((ENCODER / "manifest.json").read_text(), EncoderManifest())


def test_embeddings_are_those_of_the_original_model_in_every_pooled_layer() -> None:
    encoder = load_encoder(ENCODER)
    assert encoder is not None
    for recorded in json.loads(build_encoder.REFERENCE.read_text()):
        found = encoder.embed([recorded["text"]])[0].reshape(-1, build_encoder.WIDTH)
        expected = np.reshape(recorded["embedding"], (-1, build_encoder.WIDTH))
        assert found.shape == expected.shape == (len(build_encoder.POOLED_LAYERS), build_encoder.WIDTH)
        assert ((found * expected).sum(axis=1) >= build_encoder.QUANTISED_COSINE).all()


def test_manifest_names_the_files_and_their_checksums() -> None:
    assert (manifest().name, manifest().columns) == (build_encoder.NAME, 1152)
    for listed in manifest().files:
        assert hashlib.sha256((ENCODER / listed.path).read_bytes()).hexdigest() == listed.sha256


def test_texts_of_any_length_have_an_embedding_and_different_texts_another() -> None:
    encoder = load_encoder(ENCODER)
    assert encoder is not None
    embedded = encoder.embed(["soup", "soup", "a very different wish", "", "soup " * 5_000, "\U0001f35c"])
    assert np.isfinite(embedded).all()
    assert (embedded[0] == embedded[1]).all()
    assert len({row.tobytes() for row in embedded}) == 5


def test_model_that_is_not_the_recorded_one_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [dict(each, embedding=each["embedding"][::-1]) for each in json.loads(build_encoder.REFERENCE.read_text())]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    monkeypatch.setattr(build_encoder, "REFERENCE", tmp_path / "wrong.json")
    tokenizer = Tokenizer.from_file(str(ENCODER / "tokenizer.json"))
    cosine = build_encoder.lowest_cosine(ENCODER / "encoder.onnx", tokenizer)
    with pytest.raises(SystemExit, match="not the recorded model"):
        build_encoder._require(cosine, build_encoder.QUANTISED_COSINE, "the graph")
