import numpy as np

from services.inference.classifiers.cascade import PassedStage, Stage, StageKind, answer
from services.inference.classifiers.ranking import Intent
from tests.fakes import FakeClassifier

SURE = (Intent("meal_lunch", 0.9), Intent("meal_dinner", 0.1))
UNSURE = (Intent("meal_lunch", 0.3),)
KEYWORD = (Intent("flavor_spicy", 0.0),)
KEYWORDS = Stage(StageKind.KEYWORD, FakeClassifier(KEYWORD))


def test_first_stage_that_is_sure_enough_answers() -> None:
    keywords = FakeClassifier(KEYWORD)
    stages = (Stage(StageKind.LINEAR, FakeClassifier(SURE), 0.5), Stage(StageKind.KEYWORD, keywords))
    (outcome,) = answer(["hello"], stages, 5)
    assert (outcome.intents, outcome.kind, outcome.passed) == (SURE, StageKind.LINEAR, ())
    assert keywords.asked == []


def test_stage_below_its_threshold_passes_and_says_why() -> None:
    stages = (
        Stage(StageKind.LINEAR, FakeClassifier(UNSURE), 0.5),
        Stage(StageKind.KEYWORD, FakeClassifier(KEYWORD)),
    )
    (outcome,) = answer(["hello"], stages, 5)
    assert outcome.kind is StageKind.KEYWORD
    assert outcome.passed == (PassedStage(StageKind.LINEAR, "best is meal_lunch at 0.300, below the threshold 0.500"),)


def test_unknown_is_answered_when_every_stage_passes() -> None:
    stages = (Stage(StageKind.LINEAR, FakeClassifier(())), Stage(StageKind.KEYWORD, FakeClassifier(())))
    (outcome,) = answer(["hello"], stages, 5)
    assert (Intent("unknown", 0.0),) == outcome.intents
    assert [passed.reason for passed in outcome.passed] == ["fake abstains", "fake abstains"]


def test_confidence_at_the_threshold_answers() -> None:
    (outcome,) = answer(["hello"], (Stage(StageKind.LINEAR, FakeClassifier(UNSURE), 0.3),), 5)
    assert outcome.kind is StageKind.LINEAR


def test_outcomes_keep_the_order_of_the_queries() -> None:
    class OnlyShort(FakeClassifier):
        def rank(self, queries, top_k, earlier):  # type: ignore[no-untyped-def]
            answered = FakeClassifier(SURE).rank(queries, top_k, earlier)
            empty = FakeClassifier(()).rank(queries, top_k, earlier)
            return [a if len(q) < 3 else e for q, a, e in zip(queries, answered, empty, strict=True)]

    stages = (Stage(StageKind.LINEAR, OnlyShort(())), Stage(StageKind.KEYWORD, FakeClassifier(KEYWORD)))
    kinds = [outcome.kind for outcome in answer(["ab", "long one", "cd"], stages, 5)]
    assert kinds == [StageKind.LINEAR, StageKind.KEYWORD, StageKind.LINEAR]


def linear(scores: list[float], **stops: float) -> Stage:
    return Stage(StageKind.LINEAR, FakeClassifier(SURE, np.array(scores, dtype=np.float32)), **stops)  # type: ignore[arg-type]


def test_small_margin_between_the_best_two_labels_is_handed_on() -> None:
    (outcome,) = answer(["hello"], (linear([3.0, 1.5, 0.0], min_margin=2.0), KEYWORDS), 5)
    assert outcome.kind is StageKind.KEYWORD
    assert outcome.passed[0].reason == "best is meal_lunch, 4.5 times as likely as the next; 7 times is needed"
    assert answer(["hello"], (linear([3.0, 1.0, 0.0], min_margin=2.0), KEYWORDS), 5)[0].kind is StageKind.LINEAR


def test_low_best_score_is_handed_on_at_any_margin() -> None:
    (outcome,) = answer(["hello"], (linear([1.0, -9.0], min_margin=2.0, min_score=1.5), KEYWORDS), 5)
    assert outcome.kind is StageKind.KEYWORD
    assert "unlike the training examples" in outcome.passed[0].reason


def test_infinite_margin_hands_everything_on() -> None:
    stages = (linear([30.0, 0.0], min_margin=float("inf")), KEYWORDS)
    assert answer(["hello"], stages, 5)[0].kind is StageKind.KEYWORD


def test_later_stage_gets_what_the_earlier_one_said() -> None:
    class Reader(FakeClassifier):
        def rank(self, queries, top_k, earlier):  # type: ignore[no-untyped-def]
            assert [each.score for each in earlier] == [1.0]
            return super().rank(queries, top_k, earlier)

    stages = (linear([1.0, 0.5], min_margin=2.0), Stage(StageKind.TRANSFORMER, Reader(SURE)))
    assert answer(["hello"], stages, 5)[0].kind is StageKind.TRANSFORMER
