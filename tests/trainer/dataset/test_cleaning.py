import pytest

from services.trainer.dataset.cleaning import clean
from services.trainer.dataset.examples import FEEDBACK, REVIEW, Example

LABELS = {"a", "b", "c"}


def said(text: str, *labels: str) -> Example:
    return Example(text, labels, FEEDBACK)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (said("  ", "a"), "unusable_text"),
        (said("!!!", "a"), "unusable_text"),
        (said("x\0y", "a"), "unusable_text"),
        (said("x" * 10_001, "a"), "unusable_text"),
        (said("hello"), "no_label"),
        (said("hello", "nope"), "unknown_label"),
        (said("Golden, query!", "a"), "reserved_for_evaluation"),
    ],
)
def test_every_drop_is_counted_by_its_reason(example: Example, reason: str) -> None:
    cleaned = clean([], [example], [Example("golden query", ("a",))], LABELS)
    assert ((), {reason: 1}) == (cleaned.examples, cleaned.dropped)


def test_same_text_with_the_same_labels_counts_once() -> None:
    cleaned = clean([Example("Hello there", ("a",)), Example("hello  THERE!", ("a",))], [], [], LABELS)
    assert (len(cleaned.examples), cleaned.dropped) == (1, {"duplicate": 1})


def test_later_label_replaces_an_earlier_one() -> None:
    cleaned = clean([Example("hello", ("a",))], [said("hello", "b")], [], LABELS)
    assert (said("hello", "b"),) == cleaned.examples
    assert cleaned.dropped == {"relabelled": 1}


def test_query_with_three_different_answers_is_contradictory_and_not_learned() -> None:
    cleaned = clean([], [said("hello", "a"), said("hello", "b"), said("hello", "c")], [], LABELS)
    assert cleaned.examples == ()
    assert cleaned.dropped["contradictory"] == 1


def test_contradiction_goes_to_a_person_whose_review_settles_it() -> None:
    said_of_it = [said("hello", "a"), said("hello", "b"), said("hello", "c")]
    assert (said("hello", "c"),) == clean([], said_of_it, [], LABELS).contradictory
    reviewed = Example("hello", ("b",), REVIEW)
    settled = clean([], [*said_of_it, reviewed], [], LABELS)
    assert ((reviewed,), ()) == (settled.examples, settled.contradictory)


def test_person_may_change_their_mind_once() -> None:
    cleaned = clean([], [said("hello", "a"), said("hello", "b")], [], LABELS)
    assert (said("hello", "b"),) == cleaned.examples


def test_example_without_a_label_is_out_of_scope_and_kept_unless_it_is_feedback() -> None:
    outside = Example("what is the capital of France", ())
    assert clean([outside], [], [], LABELS).examples == (outside,)


def test_without_a_taxonomy_every_label_exists() -> None:
    assert len(clean([Example("hello", ("anything",))], [], [], None).examples) == 1
