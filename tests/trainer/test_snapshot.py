import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.examples import FEEDBACK, TAXONOMY, Example
from services.trainer.snapshot import part_of, split, write_snapshot

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


def test_name_of_a_snapshot_is_its_content(tmp_path: Path) -> None:
    first, again = split(EXAMPLES, []), split(EXAMPLES, [])
    other = split(EXAMPLES[:-1], [])
    assert first.id == again.id
    assert first.id != other.id
    path = write_snapshot(first, tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert (500, f"{first.id}.jsonl") == (len(rows), path.name)
    assert {"train", "withheld"} == {row["part"] for row in rows}
