import numpy as np
import pytest

from services.trainer.dataset.examples import Example
from services.trainer.evaluation.metrics import calibration_error, evaluate, golden_failures, label_results
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
    assert evaluate(SCORER, held_out, 0).accuracy == 0.5


def test_recall_at_3_is_the_share_of_labels_among_the_first_three() -> None:
    held_out = [Example("a then b", ("a", "b")), Example("last is d", ("d", "a"))]
    assert evaluate(SCORER, held_out, 0).recall_at_3 == pytest.approx((1 + 0.5) / 2)


def test_macro_f1_weighs_labels_alike() -> None:
    held_out = [Example("is a", ("a",))] * 3 + [Example("is a", ("b",))]
    results = {result.label: result for result in label_results(["a"] * 4, held_out)}
    assert results["a"].f1 == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert (results["b"].f1, results["b"].examples) == (0.0, 1)
    assert evaluate(SCORER, held_out, 0).macro_f1 == pytest.approx((6 / 7 + 0) / 2)


def test_golden_queries_that_fail_are_named_with_the_wrong_answer() -> None:
    golden = [Example("is a", ("a",)), Example("is b", ("a", "c"))]
    assert golden_failures(SCORER, golden) == ("is b -> b",)


def test_calibration_error_is_the_gap_between_confidence_and_rightness_weighted_by_bin() -> None:
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.31, 0.31])
    right = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    assert calibration_error(confidences, right) == pytest.approx((0.15 * 4 + 0.19 * 2) / 6)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0


def test_example_of_several_labels_is_due_its_share_of_confidence() -> None:
    scorer = FakeScorer(LABELS, {"a then b": (0.5, 0.5, 0.0, 0.0)})
    assert evaluate(scorer, [Example("a then b", ("a", "b"))], 0).calibration_error == 0


def test_examples_without_a_label_count_only_as_out_of_scope() -> None:
    scorer = FakeScorer(
        ("a", "b"),
        {f"in {n}": (0.5 + n / 200, 0.5 - n / 200) for n in range(100)}
        | {"out low": (0.5, 0.5), "out high": (0.9, 0.1)},
        threshold=0.6,
    )
    held_out = [Example(f"in {n}", ("a",)) for n in range(100)]
    measured = evaluate(scorer, [*held_out, Example("out low", ()), Example("out high", ())], 0)
    assert (measured.held_out_examples, measured.out_of_scope_examples, measured.accuracy) == (100, 2, 1.0)
    assert measured.coverage == pytest.approx(0.8)
    assert measured.out_of_scope_recall == 0.5
    assert measured.out_of_scope_recall_at_95 == 0.5


def test_mean_time_counts_the_slow_stage_for_the_share_that_is_escalated() -> None:
    scorer = FakeScorer(LABELS, {}, escalates=frozenset({"hard"}))
    held_out = [Example(text, ("a",)) for text in ("hard", "easy", "easy too", "plain")]
    measured = evaluate(scorer, held_out, 0)
    assert measured.escalated == 0.25
    assert measured.mean_query_micros == pytest.approx(0.75 * 50 + 0.25 * 1000)
