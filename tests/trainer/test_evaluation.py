import pytest

from services.trainer.evaluation import evaluate, golden_failures, label_results
from services.trainer.examples import Example
from tests.fakes import FakeScorer

LABELS = ("a", "b", "c", "d")
SCORER = FakeScorer(
    LABELS,
    {
        "is a": (0.7, 0.1, 0.1, 0.1),
        "is b": (0.1, 0.7, 0.1, 0.1),
        "a then b": (0.5, 0.4, 0.06, 0.04),
        "last is d": (0.4, 0.3, 0.2, 0.1),
    },
)


def test_top_1_is_right_when_it_is_one_of_the_labels() -> None:
    held_out = [Example("is a", ("a", "c")), Example("is b", ("a",))]
    assert evaluate(SCORER, held_out, [], 0).accuracy == 0.5


def test_recall_at_3_is_the_share_of_labels_among_the_first_three() -> None:
    held_out = [Example("a then b", ("a", "b")), Example("last is d", ("d", "a"))]
    assert evaluate(SCORER, held_out, [], 0).recall_at_3 == pytest.approx((1 + 0.5) / 2)


def test_macro_f1_weighs_labels_alike() -> None:
    held_out = [Example("is a", ("a",))] * 3 + [Example("is a", ("b",))]
    results = {result.label: result for result in label_results(["a"] * 4, held_out)}
    assert results["a"].f1 == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert (results["b"].f1, results["b"].examples) == (0.0, 1)
    assert evaluate(SCORER, held_out, [], 0).macro_f1 == pytest.approx((6 / 7 + 0) / 2)


def test_golden_queries_that_fail_are_named_with_the_wrong_answer() -> None:
    golden = [Example("is a", ("a",)), Example("is b", ("a", "c"))]
    assert golden_failures(SCORER, golden) == ("is b -> b",)
