import numpy as np
import pytest

from services.trainer.evaluation.comparison import Difference, Prediction, compare_groups, holm, measure_differences
from services.trainer.evaluation.metrics import measure_labels

LABELS = tuple(f"label_{n}" for n in range(20))


def answered(right: list[bool] | np.ndarray, slices: tuple[str, ...] = ()) -> tuple[Prediction, ...]:
    """One example of a label each in turn, answered rightly or by the next label."""
    return tuple(
        Prediction((LABELS[n % 20],), LABELS[(n + (not is_right)) % 20], slices) for n, is_right in enumerate(right)
    )


def pair(count: int, champion: float, lost: float, gained: float, seed: int) -> tuple[list[bool], list[bool]]:
    """Whether champion and challenger are right; the challenger loses and gains these shares of all examples."""
    chance = np.random.default_rng(seed)
    before = chance.random(count) < champion
    after = np.where(before, chance.random(count) >= lost / champion, chance.random(count) < gained / (1 - champion))
    return list(after), list(before)


def test_value_is_the_difference_of_the_shares_and_lies_in_its_interval() -> None:
    accuracy, macro_f1 = measure_differences(answered([True] * 90 + [False] * 10), answered([True] * 80 + [False] * 20))
    assert accuracy.value == pytest.approx(0.10)
    assert accuracy.low < accuracy.value < accuracy.high
    assert macro_f1.value > 0


def test_macro_f1_is_that_of_the_evaluation() -> None:
    right = [n % 3 > 0 for n in range(100)]
    predictions, perfect = answered(right), answered([True] * 100)
    _, macro_f1 = measure_differences(predictions, perfect)
    expected = np.mean([result.f1 for result in measure_labels(predictions)])
    assert expected - 1 == pytest.approx(macro_f1.value, abs=1e-6)


def test_the_same_answers_differ_by_nothing() -> None:
    same = answered([n % 5 > 0 for n in range(50)])
    assert [Difference(0, 0, 0, 0)] * 2 == list(measure_differences(same, same))


def test_interval_narrows_with_more_examples() -> None:
    widths = []
    for count in (200, 2000):
        after, before = pair(count, 0.9, 0.03, 0.03, seed=1)
        accuracy, _ = measure_differences(answered(after), answered(before))
        widths.append(accuracy.high - accuracy.low)
    assert widths[1] < widths[0] / 2


def test_only_a_group_that_is_surely_lost_is_named() -> None:
    before, after = [True] * 400, [True] * 400
    for row in range(0, 400, 20):  # label_0: 20 of 20 right before, 8 of 20 after
        after[row] = row % 50 == 0
    after[1] = False  # label_1: one of twenty
    compared = {group.name: group for group in compare_groups(answered(after), answered(before))}
    assert [name for name, group in compared.items() if group.is_sure] == ["label_0"]
    assert (compared["label_1"].champion, compared["label_1"].challenger) == (1.0, 0.95)


def test_group_with_fewer_than_twenty_examples_is_not_compared() -> None:
    compared = compare_groups(answered([False] * 399), answered([True] * 399))
    assert set(LABELS) - {"label_19"} == {group.name for group in compared}


def test_slice_is_compared_like_a_label() -> None:
    before = answered([True] * 40, ("length: 1 to 2 words",))
    after = answered([n >= 20 for n in range(40)], ("length: 1 to 2 words",))
    (lost,) = [group for group in compare_groups(after, before) if group.kind == "slice"]
    assert (lost.name, lost.examples, lost.loss, lost.is_sure) == ("length: 1 to 2 words", 40, 0.5, True)


@pytest.mark.parametrize(
    ("chances", "expected"),
    [
        ([], []),
        ([0.009], [True]),
        ([0.011], [False]),
        ([0.004, 0.006], [True, True]),
        ([0.006, 0.006], [False, False]),
        ([0.5, 0.001, 0.02], [False, True, False]),
    ],
)
def test_holm_rejects_what_is_sure_among_all_that_was_asked(chances: list[float], expected: list[bool]) -> None:
    assert expected == holm(chances, 0.01)
