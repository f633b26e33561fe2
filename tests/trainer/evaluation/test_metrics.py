import numpy as np
import pytest

from services.trainer.dataset.examples import Example
from services.trainer.evaluation.comparison import Prediction
from services.trainer.evaluation.metrics import (
    Evaluation,
    add_golden,
    evaluate,
    measure_accuracy,
    measure_calibration_error,
    measure_labels,
)
from services.trainer.fitting.thresholds import Answers

LABELS = ("a", "b", "c", "d")
IS_A, IS_B, A_THEN_B, LAST_IS_D = (
    (0.7, 0.1, 0.1, 0.1),
    (0.1, 0.7, 0.1, 0.1),
    (0.5, 0.4, 0.06, 0.04),
    (0.4, 0.3, 0.2, 0.1),
)


def measured(*answered: tuple[tuple[str, ...], tuple[float, ...]]) -> Evaluation:
    """Evaluate answers to examples, given as labels and probabilities; all answered by the linear stage."""
    probabilities = np.array([probabilities for _, probabilities in answered])
    none, every = np.zeros(len(answered), dtype=bool), np.ones(len(answered), dtype=bool)
    examples = [Example(f"query {n}", labels) for n, (labels, _) in enumerate(answered)]
    return evaluate(examples, Answers(probabilities, none, every), LABELS)


def test_answer_is_right_when_it_is_one_of_the_labels() -> None:
    assert measured((("a", "c"), IS_A), (("a",), IS_B)).accuracy == 0.5


def test_recall_at_3_is_the_share_of_labels_among_the_first_three() -> None:
    assert measured((("a", "b"), A_THEN_B), (("d", "a"), LAST_IS_D)).recall_at_3 == pytest.approx((1 + 0.5) / 2)


def test_macro_f1_weighs_labels_alike() -> None:
    answered = [(("a",), IS_A)] * 3 + [(("b",), IS_A)]
    results = {result.label: result for result in measured(*answered).labels}
    assert results["a"].f1 == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert (results["b"].f1, results["b"].examples, results["b"].recall) == (0.0, 1, 0.0)
    assert measured(*answered).macro_f1 == pytest.approx((6 / 7 + 0) / 2)


def test_wrong_answer_misses_every_label_of_its_example_by_a_share() -> None:
    results = measure_labels([Prediction(("a", "b"), "c"), Prediction(("a",), "a")])
    assert [(result.label, result.f1) for result in results] == [("a", 2 / 2.5), ("b", 0.0), ("c", 0.0)]


def test_golden_queries_that_fail_are_named_with_the_wrong_answer() -> None:
    golden = [Example("is a", ("a",)), Example("is b", ("a", "c"))]
    evaluation = add_golden(measured((("a",), IS_A)), golden, np.array([IS_A, IS_B]), LABELS)
    assert (evaluation.golden_queries, evaluation.golden_wrong) == (2, ("is b -> b",))


def test_accuracy_of_examples_is_the_share_of_right_answers() -> None:
    examples = [Example("x", ("a", "b")), Example("y", ("a",)), Example("z", ("d",))]
    assert measure_accuracy(examples, np.array([IS_B, IS_A, IS_A]), LABELS) == pytest.approx(2 / 3)
    assert measure_accuracy([], np.zeros((0, 4)), LABELS) == 0


def test_calibration_error_is_the_gap_between_confidence_and_rightness_weighted_by_bin() -> None:
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.31, 0.31])
    right = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    assert measure_calibration_error(confidences, right) == pytest.approx((0.15 * 4 + 0.19 * 2) / 6)
    assert measure_calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0


def test_example_of_several_labels_is_due_its_share_of_confidence() -> None:
    assert measured((("a", "b"), (0.5, 0.5, 0.0, 0.0))).calibration_error == 0


def test_examples_without_a_label_count_only_as_out_of_scope() -> None:
    in_scope = [(Example(f"in {n}", ("a",)), 0.5 + n / 200) for n in range(100)]
    asked = [(Example("out low", ()), 0.5), *in_scope, (Example("out high", ()), 0.9)]
    confidences = np.array([confidence for _, confidence in asked])
    answers = Answers(np.stack([confidences, 1 - confidences], axis=1), confidences > 0.95, confidences >= 0.6)
    evaluation = evaluate([example for example, _ in asked], answers, ("a", "b"))
    assert (evaluation.held_out_examples, evaluation.out_of_scope_examples, evaluation.accuracy) == (100, 2, 1.0)
    assert evaluation.coverage == pytest.approx(0.8)
    assert evaluation.escalated == pytest.approx(0.09)
    assert evaluation.out_of_scope_recall == 0.5
    assert evaluation.out_of_scope_recall_at_95 == 0.5


def test_each_prediction_has_the_slices_of_its_example() -> None:
    (prediction,) = measured((("a", "b"), IS_B)).predictions
    assert Prediction(("a", "b"), "b", ("length: 1 to 2 words", "script: latin", "source: seed")) == prediction


def test_mean_time_counts_the_slow_stage_for_the_share_that_is_escalated() -> None:
    evaluation = Evaluation(
        1.0, 1.0, 1.0, 4, 0, (), (), query_micros=50, model_bytes=0, escalated=0.25, transformer_query_micros=1000
    )
    assert evaluation.mean_query_micros == pytest.approx(0.75 * 50 + 0.25 * 1000)
