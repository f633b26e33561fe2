from dataclasses import replace

import pytest

from services.trainer.evaluation import Evaluation
from services.trainer.promotion import decide

CHAMPION = Evaluation(
    accuracy=0.80,
    macro_f1=0.75,
    recall_at_3=0.9,
    held_out_examples=1000,
    golden_queries=200,
    golden_wrong=(),
    labels=(),
    query_micros=100.0,
    model_bytes=1_000_000,
    feedback_examples=0,
    feedback_accuracy=0.0,
)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, []),
        ({"accuracy": 0.791, "macro_f1": 0.741}, []),
        ({"accuracy": 0.789}, ["accuracy_not_worse"]),
        ({"macro_f1": 0.739}, ["macro_f1_not_worse"]),
        ({"accuracy": 0.5, "macro_f1": 0.4}, ["accuracy_not_worse", "macro_f1_not_worse"]),
        ({"golden_wrong": ("pizza -> meal_drink",)}, ["golden_all_right"]),
        ({"golden_queries": 0}, []),
        ({"feedback_examples": 19, "feedback_accuracy": 0.0}, []),
        ({"feedback_examples": 100, "feedback_accuracy": 0.0}, ["feedback_learned"]),
        ({"feedback_examples": 100, "feedback_accuracy": 0.7}, []),
        ({"feedback_examples": 20, "feedback_accuracy": 0.39}, ["feedback_learned"]),
        ({"feedback_examples": 20, "feedback_accuracy": 0.40}, []),
        ({"query_micros": 10_001.0}, ["query_time"]),
        ({"model_bytes": 201 * 1024 * 1024}, ["model_size"]),
    ],
)
def test_challenger_is_refused_by_exactly_the_rules_it_breaks(changes: dict[str, object], failed: list[str]) -> None:
    decision = decide(replace(CHAMPION, **changes), CHAMPION, 3)  # type: ignore[arg-type]
    assert failed == [rule.name for rule in decision.rules if not rule.passed]
    assert decision.promoted == (not failed)
    assert len(decision.reasons) == len(failed)


@pytest.mark.parametrize(
    ("accuracy", "macro_f1", "failed"),
    [
        (0.40, 0.30, []),
        (0.39, 0.30, ["accuracy_floor"]),
        (0.40, 0.29, ["macro_f1_floor"]),
    ],
)
def test_first_model_has_floors_to_pass(accuracy: float, macro_f1: float, failed: list[str]) -> None:
    decision = decide(replace(CHAMPION, accuracy=accuracy, macro_f1=macro_f1), None)
    assert failed == [rule.name for rule in decision.rules if not rule.passed]


def test_reasons_carry_the_numbers() -> None:
    (reason,) = decide(replace(CHAMPION, accuracy=0.70), CHAMPION).reasons
    assert "0.7000" in reason
    assert "0.8000" in reason
