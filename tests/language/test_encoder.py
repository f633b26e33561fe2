import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.language.encoder import Encoder, EncoderDamaged, load_encoder
from tests.conftest import ENCODER


@lru_cache
def encoder() -> Encoder:
    found = load_encoder(ENCODER)
    assert found is not None
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=3))
def test_texts_embedded_together_get_the_embedding_that_each_gets_alone(texts: list[str]) -> None:
    embedded = encoder().embed(texts)
    assert (len(texts), encoder().columns) == embedded.shape
    assert np.float32 == embedded.dtype
    for text, row in zip(texts, embedded, strict=True):
        assert (row == encoder().embed_one(text)[0]).all()


def test_folder_without_an_encoder_gives_none(tmp_path: Path) -> None:
    assert load_encoder(tmp_path) is None
    assert load_encoder(tmp_path / "missing") is None


def test_file_that_is_not_the_one_of_the_manifest_is_named(tmp_path: Path) -> None:
    shutil.copytree(ENCODER, tmp_path / "damaged")
    with (tmp_path / "damaged" / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(EncoderDamaged, match=r"tokenizer\.json"):
        load_encoder(tmp_path / "damaged")


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx"])
def test_encoder_that_cannot_be_read_is_damaged(tmp_path: Path, name: str) -> None:
    shutil.copytree(ENCODER, tmp_path / "damaged")
    (tmp_path / "damaged" / name).unlink()
    if name == "manifest.json":
        (tmp_path / "damaged" / name).write_text("{")
    with pytest.raises(EncoderDamaged):
        load_encoder(tmp_path / "damaged")
