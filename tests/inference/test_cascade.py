from services.inference.cascade import Passed, Stage, StageKind, answer
from services.inference.ranking import Intent
from tests.fakes import FakeClassifier

SURE = (Intent("meal_lunch", 0.9), Intent("meal_dinner", 0.1))
UNSURE = (Intent("meal_lunch", 0.3),)
KEYWORD = (Intent("flavor_spicy", 0.0),)


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
    assert outcome.passed == (Passed(StageKind.LINEAR, "best is meal_lunch at 0.300, below the threshold 0.500"),)


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
        def rank(self, queries, top_k):  # type: ignore[no-untyped-def]
            answered = FakeClassifier(SURE).rank(queries, top_k)
            empty = FakeClassifier(()).rank(queries, top_k)
            return [a if len(q) < 3 else e for q, a, e in zip(queries, answered, empty, strict=True)]

    stages = (Stage(StageKind.LINEAR, OnlyShort(())), Stage(StageKind.KEYWORD, FakeClassifier(KEYWORD)))
    kinds = [outcome.kind for outcome in answer(["ab", "long one", "cd"], stages, 5)]
    assert kinds == [StageKind.LINEAR, StageKind.KEYWORD, StageKind.LINEAR]
