"""What two services must agree on, although they share no domain code."""

import importlib
import pkgutil
import types

import pytest

import services.inference
import services.trainer
from services.gateway.routes import fields, queries
from services.inference import error_table as inference_errors
from services.inference import request_checks
from services.inference.errors import InferenceError
from services.language import text
from services.trainer.api import error_table as trainer_errors
from services.trainer.errors import TrainerError
from services.transport.errors import ErrorTable, status_of


def test_limits_are_the_same_everywhere() -> None:
    assert text.MAX_QUERY_CHARS == fields.MAX_TEXT_CHARS
    assert request_checks.MAX_BATCH_TEXTS == queries.MAX_BATCH_TEXTS


def kinds_of(base: type[Exception]) -> set[type[Exception]]:
    """Return the subclasses of an exception, and theirs, that have been imported from services."""
    children = {kind for kind in base.__subclasses__() if kind.__module__.startswith("services.")}
    return children.union(*(kinds_of(kind) for kind in children))


@pytest.mark.parametrize(
    ("service", "base", "table"),
    [
        (services.inference, InferenceError, inference_errors.ERROR_TABLE),
        (services.trainer, TrainerError, trainer_errors.ERROR_TABLE),
    ],
    ids=["inference", "trainer"],
)
def test_every_exception_has_a_row_wherever_it_is_defined(
    service: types.ModuleType, base: type[Exception], table: ErrorTable
) -> None:
    for module in pkgutil.walk_packages(service.__path__, f"{service.__name__}."):
        importlib.import_module(module.name)
    assert kinds_of(base) == set(table)


def test_what_is_in_no_table_tells_nothing() -> None:
    status = status_of(ValueError("password=hunter2"), {})
    assert "hunter2" not in str(status)
