"""What two services must agree on, although they share no domain code."""

import inspect
import types
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway import schemas
from services.inference import errors as inference_errors
from services.inference import request_checks
from services.inference import status as inference_status
from services.language import names
from services.language import text as inference_text
from services.language.encoder import Encoder as ServingEncoder
from services.language.encoder import load_encoder
from services.trainer import errors as trainer_errors
from services.trainer import export
from services.trainer import status as trainer_status
from services.trainer import text as trainer_text
from services.trainer.encoder import Encoder as TrainingEncoder
from services.trainer.encoder import open_encoder
from services.transport.errors import ErrorTable, status_of
from tests.conftest import ENCODER


@settings(max_examples=1000, deadline=None)
@given(st.text())
def test_text_is_normalised_alike_in_training_and_serving(text: str) -> None:
    normalised = inference_text.normalise(text)
    assert normalised == trainer_text.normalise(text)
    assert normalised == inference_text.normalise(normalised)


def test_every_character_is_normalised_alike() -> None:
    for start in range(0, 0x110000, 0x1000):
        characters = " ".join(map(chr, range(start, start + 0x1000)))
        assert inference_text.normalise(characters) == trainer_text.normalise(characters)


def test_names_and_limits_are_the_same_everywhere() -> None:
    assert inference_text.NORMALIZER == trainer_text.NORMALIZER
    assert inference_text.MAX_QUERY_CHARS == trainer_text.MAX_QUERY_CHARS == schemas.MAX_TEXT_CHARS
    assert request_checks.MAX_BATCH_TEXTS == schemas.MAX_BATCH_TEXTS
    assert names.LABELS_METADATA == export.LABELS_METADATA


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=3))
def test_texts_are_embedded_alike_in_training_and_serving(texts: list[str]) -> None:
    training, serving = encoders()
    embedded = training.embed(texts)
    assert embedded.shape == (len(texts), training.columns)
    for text, row in zip(texts, embedded, strict=True):
        assert (row == serving.embed_one(text)[0]).all()


@lru_cache
def encoders() -> tuple[TrainingEncoder, ServingEncoder]:
    training, serving = open_encoder(str(ENCODER)), load_encoder(ENCODER)
    assert training is not None
    assert serving is not None
    assert (training.name, training.columns) == (serving.name, serving.columns)
    return training, serving


def exceptions_of(module: types.ModuleType, base: type[Exception]) -> list[type[Exception]]:
    return [
        kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, base) and kind is not base
    ]


@pytest.mark.parametrize(
    ("module", "base", "table"),
    [
        (inference_errors, inference_errors.InferenceError, inference_status.ERROR_TABLE),
        (trainer_errors, trainer_errors.TrainerError, trainer_status.ERROR_TABLE),
    ],
)
def test_every_exception_has_a_row(module: types.ModuleType, base: type[Exception], table: ErrorTable) -> None:
    assert set(exceptions_of(module, base)) == set(table)


def test_what_is_in_no_table_tells_nothing() -> None:
    status = status_of(ValueError("password=hunter2"), {})
    assert "hunter2" not in str(status)
