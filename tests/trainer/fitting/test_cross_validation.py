import numpy as np
import pytest

from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.fitting.cross_validation import LINEAR_GRID, cross_validate
from services.trainer.fitting.training_set import TrainingData, build_training_data

EXAMPLES = [Example(f"{noun} number {n}", (noun,)) for n in range(60) for noun in ("soup", "cake")]
SECRET = Example("xyzzy xyzzy", ("cake",))


def build(*examples: Example) -> TrainingData:
    return build_training_data(examples, None, lambda: None)


def test_every_measured_example_is_scored_once() -> None:
    descriptor = Example("hot", ("soup",), TAXONOMY)
    data = build(*EXAMPLES, descriptor)
    scored = cross_validate(data, np.arange(len(EXAMPLES) + 1))
    assert list(range(len(EXAMPLES))) == sorted(scored.rows.tolist())
    assert (len(EXAMPLES), 2) == scored.linear.shape
    assert scored.linear_setting in LINEAR_GRID
    assert (scored.head, scored.last_head) == (None, None)


def test_example_is_scored_by_a_model_that_was_not_fitted_to_it() -> None:
    data = build(*EXAMPLES, SECRET)
    scored = cross_validate(data, np.arange(len(EXAMPLES) + 1))
    (row,) = np.flatnonzero(scored.rows == len(EXAMPLES))
    # Its only word is in no other example, so the model knows nothing about it and both labels score alike.
    assert scored.linear[row, 0] == pytest.approx(scored.linear[row, 1], abs=0.2)


def test_rows_that_are_left_out_are_neither_scored_nor_fitted_to() -> None:
    data = build(*EXAMPLES, *[Example(f"glorpy {n}", ("cake",)) for n in range(20)])
    rows = np.arange(len(EXAMPLES))
    alone = cross_validate(build(*EXAMPLES), rows)
    scored = cross_validate(data, rows)
    assert set(rows) == set(scored.rows.tolist())
    assert np.allclose(alone.linear, scored.linear)


def test_no_more_folds_are_scored_than_it_takes_for_enough_examples() -> None:
    data = build(*EXAMPLES)
    scored = cross_validate(data, np.arange(len(EXAMPLES)), enough=40)
    assert len(set(data.folds[scored.rows].tolist())) == 2
