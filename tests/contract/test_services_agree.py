"""What two services must agree on, although they share no domain code."""

import inspect
import types

import pytest

from services.gateway import schemas
from services.inference import errors as inference_errors
from services.inference import servicer as inference_servicer
from services.inference import status as inference_status
from services.language import text
from services.trainer import errors as trainer_errors
from services.trainer.api import status as trainer_status
from services.transport.errors import ErrorTable, status_of


def test_limits_are_the_same_everywhere() -> None:
    assert text.MAX_QUERY_CHARS == schemas.MAX_TEXT_CHARS
    assert inference_servicer.MAX_BATCH_TEXTS == schemas.MAX_BATCH_TEXTS


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
