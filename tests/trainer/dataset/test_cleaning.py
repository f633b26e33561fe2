from collections.abc import Iterator
from itertools import count

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
    cleaned = clean(
        [Example("hello", ("a",))], [said("hello", "c"), said("hello", "b"), said("hello", "a")], [], LABELS
    )
    assert cleaned.examples == ()
    assert cleaned.dropped["contradictory"] == 1


def test_contradiction_goes_to_a_person_whose_review_settles_it() -> None:
    said_of_it = [said("hello", "c"), said("hello", "b"), said("hello", "a")]
    assert (said("hello", "c"),) == clean([], said_of_it, [], LABELS).contradictory
    reviewed = Example("hello", ("b",), REVIEW)
    settled = clean([], [reviewed, *said_of_it], [], LABELS)
    assert ((reviewed,), ()) == (settled.examples, settled.contradictory)


def test_person_may_change_their_mind_once() -> None:
    cleaned = clean([], [said("hello", "b"), said("hello", "a")], [], LABELS)
    assert (said("hello", "b"),) == cleaned.examples


def test_example_without_a_label_is_out_of_scope_and_kept_unless_it_is_feedback() -> None:
    outside = Example("what is the capital of France", ())
    assert clean([outside], [], [], LABELS).examples == (outside,)


def test_without_a_taxonomy_every_label_exists() -> None:
    assert len(clean([Example("hello", ("anything",))], [], [], None).examples) == 1


def test_review_settles_only_what_was_said_before_it() -> None:
    reviewed = Example("hello", ("b",), REVIEW)
    said_since = [said("hello", "a"), said("hello", "c")]
    assert clean([], [*said_since, reviewed], [], LABELS).contradictory == (said("hello", "a"),)
    assert clean([], [said_since[0], reviewed, said_since[1]], [], LABELS).contradictory == ()


def test_seeds_keep_their_order_and_feedback_follows_in_the_order_in_which_it_was_last_given() -> None:
    seeds = [Example("one", ("a",)), Example("two", ("a",))]
    feedback = [said("four", "a"), said("three", "b"), said("one", "c"), said("four", "b")]
    expected = (said("one", "c"), seeds[1], said("three", "b"), said("four", "a"))
    assert expected == clean(seeds, feedback, [], LABELS).examples


def test_no_more_texts_are_read_than_the_bound_allows_and_they_are_the_newest() -> None:
    numbers = count()

    def endless() -> Iterator[Example]:
        for number in numbers:
            yield said("no label") if number % 2 else said(f"text {number // 4}", "a")

    cleaned = clean([Example("seed", ("a",))], endless(), [], LABELS, most_feedback=3)
    assert [example.text for example in cleaned.examples] == ["seed", "text 2", "text 1", "text 0"]
    assert next(numbers) < 20


def test_one_text_that_is_said_for_ever_ends_the_reading_too() -> None:
    numbers = count()
    cleaned = clean([], (said("hello", "abc"[number % 2]) for number in numbers), [], LABELS, most_feedback=3)
    assert (cleaned.examples[0].text, next(numbers)) == ("hello", 30)
