from dataclasses import replace

import pytest

from services.trainer.evaluation.comparison import Prediction
from services.trainer.evaluation.gate import decide
from services.trainer.evaluation.metrics import Evaluation

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
    assert decision.passed == (not failed)
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


def predictions(right: list[bool], slices: tuple[str, ...] = ()) -> tuple[Prediction, ...]:
    return tuple(Prediction(("soup",), "soup" if answered else "cake", slices) for answered in right)


def measured(right: list[bool]) -> dict[str, object]:
    """An evaluation's accuracy, macro-F1 and predictions for examples of one label."""
    share = sum(right) / len(right)
    return {"accuracy": share, "macro_f1": share, "predictions": predictions(right)}


def rows(*runs: tuple[int, bool]) -> list[bool]:
    return [right for count, right in runs for _ in range(count)]


@pytest.mark.parametrize(
    ("challenger", "champion", "failed"),
    [
        # equal, though every tenth answer changed
        (rows((900, True), (50, False), (50, True)), rows((900, True), (50, True), (50, False)), set()),
        # 0.9 points lower on many examples, all of them losses: small and sure
        (rows((9910, True), (90, False)), rows((10000, True)), {"accuracy_not_surely_worse"}),
        # 1.4 points lower on few noisy examples: within twice the deviation, and below the largest allowed drop
        (
            rows((800, True), (57, False), (43, True), (100, False)),
            rows((800, True), (57, True), (43, False), (100, False)),
            set(),
        ),
        # 3 points lower
        (
            rows((800, True), (60, False), (30, True), (110, False)),
            rows((800, True), (60, True), (30, False), (110, False)),
            {"accuracy_not_worse", "accuracy_not_surely_worse"},
        ),
        # 3 points lower on a hundred examples: not sure, refused all the same
        (rows((90, True), (3, False), (7, False)), rows((90, True), (3, True), (7, False)), {"accuracy_not_worse"}),
    ],
)
def test_totals_are_compared_by_their_intervals(challenger: list[bool], champion: list[bool], failed: set[str]) -> None:
    decision = decide(replace(CHAMPION, **measured(challenger)), replace(CHAMPION, **measured(champion)), 3)  # type: ignore[arg-type]
    about_accuracy = {rule.name for rule in decision.rules if not rule.passed and rule.name.startswith("accuracy")}
    assert failed == about_accuracy


def test_challenger_worse_on_one_label_is_not_promoted() -> None:
    before = tuple(Prediction((f"label_{n % 50}",), f"label_{n % 50}") for n in range(2000))
    after = tuple(
        replace(prediction, answer="other") if prediction.labels == ("label_7",) and n < 600 else prediction
        for n, prediction in enumerate(before)
    )
    champion = replace(CHAMPION, accuracy=1.0, macro_f1=1.0, predictions=before)
    challenger = replace(CHAMPION, accuracy=0.994, macro_f1=0.995, predictions=after)
    decision = decide(challenger, champion, 3)
    (rule,) = [rule for rule in decision.rules if rule.name == "no_label_lost"]
    assert not rule.passed
    assert "label_7: 1.00 to 0.70 on 40 examples" in rule.detail
    assert not decision.passed
    assert [group.name for group in decision.groups if group.is_sure] == ["label_7"]


def test_challenger_worse_on_one_slice_is_not_promoted() -> None:
    latin, greek = ("script: latin",), ("script: greek",)
    before = (*predictions(rows((2000, True)), latin), *predictions(rows((40, True)), greek))
    after = (*predictions(rows((2000, True)), latin), *predictions(rows((15, False), (25, True)), greek))
    decision = decide(
        replace(CHAMPION, accuracy=0.993, macro_f1=0.993, predictions=after),
        replace(CHAMPION, accuracy=1.0, macro_f1=1.0, predictions=before),
        3,
    )
    (rule,) = [rule for rule in decision.rules if rule.name == "no_slice_lost"]
    assert not rule.passed
    assert "script: greek: 1.00 to 0.62 on 40 examples" in rule.detail


def test_decision_is_the_same_every_time() -> None:
    challenger, champion = rows((880, True), (120, False)), rows((100, False), (900, True))
    decisions = [
        decide(replace(CHAMPION, **measured(challenger)), replace(CHAMPION, **measured(champion)), 3)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    assert decisions[0] == decisions[1]
