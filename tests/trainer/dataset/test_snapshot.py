import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.language.text import normalise
from services.trainer.dataset.examples import FEEDBACK, TAXONOMY, Example
from services.trainer.dataset.snapshot import part_of, read_snapshot, split, write_snapshot
from services.trainer.dataset.words import digest_of_content

EXAMPLES = [Example(f"query number {n}", ("a",)) for n in range(500)]


def test_example_never_changes_sides_as_data_grows() -> None:
    small, large = split(EXAMPLES[:100], []), split(EXAMPLES, [])
    assert set(small.train) <= set(large.train)
    assert set(small.held_out) <= set(large.held_out)


def test_about_a_tenth_is_held_out() -> None:
    assert 30 <= len(split(EXAMPLES, []).held_out) <= 75


@given(st.lists(st.sampled_from(["warm", "soup", "rainy", "day"]), min_size=1))
def test_texts_of_the_same_words_land_on_one_side(words: list[str]) -> None:
    shuffled = Example(", ".join(reversed(words)).upper() + "!", ("a",))
    assert part_of(Example(" ".join(words), ("a",))) == part_of(shuffled)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I want spicy noodles", "the spicy noodle I want!"),
        ("what is my balance", "Balance?"),
        ("transfer 100 dollars to savings", "transfer 100 dollars into my savings"),
        ("the who", "who the"),
    ],
)
def test_near_duplicates_land_on_one_side(one: str, other: str) -> None:
    assert digest_of_content(normalise(one)) == digest_of_content(normalise(other))


def test_texts_that_say_something_else_are_told_apart() -> None:
    texts = ["spicy noodles", "spicy soup", "noodles", "1 2 3", "4 5 6", "noodles 1", "the", "of"]
    assert len(texts) == len({digest_of_content(normalise(text)) for text in texts})


def test_descriptors_of_the_taxonomy_are_never_evidence() -> None:
    descriptors = [Example(f"query number {n}", ("a",), TAXONOMY) for n in range(500)]
    assert split(descriptors, []).held_out == ()


def test_feedback_judges_by_itself_and_is_learned_by_the_model_that_serves() -> None:
    feedback = [Example(f"query number {n}", ("a",), FEEDBACK) for n in range(500)]
    snapshot = split(feedback, [])
    assert snapshot.held_out == ()
    assert 30 <= len(snapshot.withheld_feedback) <= 75
    assert set(feedback) == set(snapshot.learned)


def test_everything_but_what_is_reserved_is_learned_and_what_judges_is_marked() -> None:
    reserved = [Example("kept for evaluation", ("a",))]
    snapshot = split(EXAMPLES, reserved)
    assert set(EXAMPLES) == set(snapshot.learned)
    judging = [example for example, judges in zip(snapshot.learned, snapshot.judging, strict=True) if judges]
    assert [*judging, *reserved] == list(snapshot.held_out)


def test_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    said = [Example("so good 🍕\n", ("a", "b"), FEEDBACK), Example("nothing", ())]
    written = split([*EXAMPLES, *said], [Example("kept", ("a",))], [Example("golden", ("a",))])
    write_snapshot(written, tmp_path)
    assert written == read_snapshot(written.id, tmp_path)


def test_name_of_a_snapshot_is_its_content(tmp_path: Path) -> None:
    first, again = split(EXAMPLES, []), split(EXAMPLES, [])
    other = split(EXAMPLES[:-1], [])
    assert first.id == again.id
    assert first.id != other.id
    path = write_snapshot(first, tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert (500, f"{first.id}.jsonl") == (len(rows), path.name)
    assert {"train", "withheld"} == {row["part"] for row in rows}
