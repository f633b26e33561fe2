import numpy as np
import pytest

from services.trainer.dataset.examples import Example
from services.trainer.evaluation.comparison import Judgement, differences, holm, parts
from services.trainer.evaluation.metrics import label_results
from services.trainer.evaluation.slices import slices_of

LABELS = tuple(f"label_{n}" for n in range(20))


def answered(right: list[bool] | np.ndarray, slices: tuple[str, ...] = ()) -> tuple[Judgement, ...]:
    """One example of a label each in turn, answered rightly or by the next label."""
    return tuple(Judgement((LABELS[n % 20],), LABELS[(n + (not each)) % 20], slices) for n, each in enumerate(right))


def pair(count: int, champion: float, lost: float, gained: float, seed: int) -> tuple[list[bool], list[bool]]:
    """Whether champion and challenger are right; the challenger loses and gains these shares of all examples."""
    chance = np.random.default_rng(seed)
    before = chance.random(count) < champion
    after = np.where(before, chance.random(count) >= lost / champion, chance.random(count) < gained / (1 - champion))
    return list(after), list(before)


def test_value_is_the_difference_of_the_shares_and_lies_in_its_interval() -> None:
    accuracy, macro_f1 = differences(answered([True] * 90 + [False] * 10), answered([True] * 80 + [False] * 20))
    assert accuracy.value == pytest.approx(0.10)
    assert accuracy.low < accuracy.value < accuracy.high
    assert macro_f1.value > 0


def test_macro_f1_is_that_of_the_evaluation() -> None:
    right = [n % 3 > 0 for n in range(100)]
    judged, perfect = answered(right), answered([True] * 100)
    _, macro_f1 = differences(judged, perfect)
    examples = [Example("x", each.labels) for each in judged]
    expected = np.mean([result.f1 for result in label_results([each.answer for each in judged], examples)])
    assert expected - 1 == pytest.approx(macro_f1.value, abs=1e-6)


def test_the_same_answers_differ_by_nothing() -> None:
    same = answered([n % 5 > 0 for n in range(50)])
    assert [(each.value, each.low, each.high, each.deviation) for each in differences(same, same)] == [(0, 0, 0, 0)] * 2


def test_interval_narrows_with_more_examples() -> None:
    widths = []
    for count in (200, 2000):
        after, before = pair(count, 0.9, 0.03, 0.03, seed=1)
        accuracy, _ = differences(answered(after), answered(before))
        widths.append(accuracy.high - accuracy.low)
    assert widths[1] < widths[0] / 2


def test_only_a_part_that_is_surely_lost_is_named() -> None:
    before, after = [True] * 400, [True] * 400
    for row in range(0, 400, 20):  # label_0: 20 of 20 right before, 8 of 20 after
        after[row] = row % 50 == 0
    after[1] = False  # label_1: one of twenty
    compared = {each.name: each for each in parts(answered(after), answered(before))}
    assert [name for name, each in compared.items() if each.sure] == ["label_0"]
    assert (compared["label_1"].champion, compared["label_1"].challenger) == (1.0, 0.95)


def test_part_with_fewer_than_twenty_examples_is_not_asked() -> None:
    assert parts(answered([False] * 399), answered([True] * 399))
    assert "label_19" not in {each.name for each in parts(answered([False] * 399), answered([True] * 399))}


def test_slice_is_compared_like_a_label() -> None:
    before = answered([True] * 40, ("length: 1 to 2 words",))
    after = answered([n >= 20 for n in range(40)], ("length: 1 to 2 words",))
    (lost,) = [each for each in parts(after, before) if each.kind == "slice"]
    assert (lost.name, lost.examples, lost.loss, lost.sure) == ("length: 1 to 2 words", 40, 0.5, True)


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("soup", ("length: 1 to 2 words", "script: latin", "source: seed")),
        ("хочу горячего супа", ("length: 3 to 6 words", "script: cyrillic", "source: seed")),
        ("温かいスープ", ("length: 1 to 2 words", "script: hiragana", "source: seed")),
        ("1 2 3 4 5 6 7", ("length: 7 to 14 words", "script: none", "source: seed")),
        ("so " * 15, ("length: 15 words or more", "script: latin", "source: seed")),
    ],
)
def test_example_belongs_to_a_slice_of_each_kind(text: str, expected: tuple[str, ...]) -> None:
    assert expected == slices_of(Example(text, ("x",)))
