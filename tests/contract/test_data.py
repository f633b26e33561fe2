"""The shipped data keeps its promises: counts, labels that exist, no duplicates, diets that follow from contents."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from services.language.text import normalise
from services.trainer.dataset.words import describe_problem
from tests.conftest import SHIPPED

TAXONOMY: dict[str, Any] = json.loads((SHIPPED / "taxonomy" / "mood_food_taxonomy.json").read_text())
CATALOGUE: dict[str, Any] = json.loads((SHIPPED / "catalogue" / "dishes.json").read_text())
LABELS = [entry["label"] for entry in TAXONOMY["labels"]]
NEAR_DUPLICATE = 0.6


def rows(name: str) -> list[dict[str, Any]]:
    paths = sorted(SHIPPED.glob(f"examples/{name}"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


TRAIN, HELD_OUT, GOLDEN = rows("train/*.jsonl"), rows("held_out.jsonl"), rows("golden.jsonl")


def count(examples: list[dict[str, Any]]) -> Counter[str]:
    return Counter(label for example in examples for label in example["labels"])


def test_taxonomy_has_138_labels_each_with_definition_descriptors_and_dishes() -> None:
    assert 138 == len(LABELS) == len(set(LABELS))
    assert len({entry["definition"] for entry in TAXONOMY["labels"]}) == 138
    for entry in TAXONOMY["labels"]:
        assert entry["label"].startswith(entry["category"] + "_")
        assert len(entry["definition"]) > 10
        assert len(entry["descriptors"]) >= 4, entry["label"]
        assert len(entry["dishes"]) >= 8, entry["label"]


def test_every_dish_of_the_taxonomy_is_in_the_catalogue_and_the_other_way_round() -> None:
    named = {dish for entry in TAXONOMY["labels"] for dish in entry["dishes"]}
    assert {dish["name"] for dish in CATALOGUE["dishes"]} == named


def test_catalogue_has_300_dishes_from_every_part_of_the_world() -> None:
    names = [dish["name"] for dish in CATALOGUE["dishes"]]
    assert len(names) == len(set(names)) >= 300
    assert len({dish["region"] for dish in CATALOGUE["dishes"]}) >= 15
    assert len({dish["culture"] for dish in CATALOGUE["dishes"]}) >= 60
    for dish in CATALOGUE["dishes"]:
        assert dish["tags"]
        assert dish["category"]


# Which contents break which diet. Meat and dairy in one dish break kosher as well, see below.
BREAKS = {
    "vegetarian": {"meat", "pork", "fish", "shellfish", "animal_rennet_or_gelatine"},
    "vegan": {
        "meat", "pork", "fish", "shellfish", "animal_rennet_or_gelatine", "dairy", "egg", "honey",
    },
    "halal": {"pork", "alcohol", "animal_rennet_or_gelatine"},
    "kosher": {"pork", "shellfish", "animal_rennet_or_gelatine"},
    "gluten_free": {"gluten"},
    "dairy_free": {"dairy"},
    "nut_free": {"nuts"},
    "egg_free": {"egg"},
    "shellfish_free": {"shellfish"},
}  # fmt: skip


@pytest.mark.parametrize("dish", CATALOGUE["dishes"], ids=lambda dish: dish["name"])
def test_diets_of_a_dish_follow_from_what_it_contains(dish: dict[str, Any]) -> None:
    contents = set(dish["contains"])
    expected = {diet for diet, breaking in BREAKS.items() if not contents & breaking}
    if {"meat", "dairy"} <= contents:
        expected.discard("kosher")
    assert expected == set(dish["diets"])


def test_diets_that_can_be_asked_for_are_those_of_the_contract() -> None:
    assert set(BREAKS) == set(CATALOGUE["diets"])


def test_every_diet_has_dishes_for_every_label_or_most() -> None:
    satisfied = {dish["name"]: set(dish["diets"]) for dish in CATALOGUE["dishes"]}
    for diet in CATALOGUE["diets"]:
        covered = [
            entry["label"] for entry in TAXONOMY["labels"] if any(diet in satisfied[dish] for dish in entry["dishes"])
        ]
        assert len(covered) >= 130, diet


def test_every_label_has_30_training_3_held_out_and_1_golden_example() -> None:
    assert [label for label in LABELS if count(TRAIN)[label] < 30] == []
    assert [label for label in LABELS if count(HELD_OUT)[label] < 3] == []
    assert [label for label in LABELS if count(GOLDEN)[label] < 1] == []
    assert len(GOLDEN) >= 200


def test_most_training_examples_have_two_or_three_labels() -> None:
    several = sum(2 <= len(example["labels"]) <= 3 for example in TRAIN)
    assert several / len(TRAIN) > 0.8


def test_every_label_used_exists_and_every_text_is_usable() -> None:
    for example in (*TRAIN, *HELD_OUT, *GOLDEN):
        assert set(example["labels"]) <= set(LABELS)
        assert len(set(example["labels"])) == len(example["labels"]) >= 1
        assert describe_problem(example["text"]) == ""


def test_no_text_stands_twice_in_or_across_the_parts() -> None:
    texts = Counter(normalise(example["text"]) for example in (*TRAIN, *HELD_OUT, *GOLDEN))
    assert [text for text, times in texts.items() if times > 1] == []


def test_training_examples_are_not_one_template_filled_in() -> None:
    openings = Counter(" ".join(normalise(example["text"]).split()[:3]) for example in TRAIN)
    assert openings.most_common(1)[0][1] / len(TRAIN) < 0.01


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Jaccard index of two sets of words."""
    return len(one & other) / len(one | other)


def near_duplicates(judged: list[str], known: list[str]) -> list[tuple[str, str]]:
    words = [(text, frozenset(normalise(text).split())) for text in known]
    return [
        (text, other)
        for text in judged
        for other, other_words in words
        if similarity(frozenset(normalise(text).split()), other_words) >= NEAR_DUPLICATE
    ]


def test_near_duplicates_are_found() -> None:
    assert near_duplicates(["warm soup for a rainy day"], ["a warm soup for rainy days", "cake"]) == [
        ("warm soup for a rainy day", "a warm soup for rainy days")
    ]


def test_held_out_part_is_no_near_duplicate_of_the_training_part() -> None:
    held_out, train = [each["text"] for each in HELD_OUT], [each["text"] for each in TRAIN]
    assert near_duplicates(held_out, train) == []


def test_readme_gives_the_counts() -> None:
    readme = Path(SHIPPED / "README.md").read_text()
    for number in (len(LABELS), len(CATALOGUE["dishes"]), len(TRAIN), len(HELD_OUT), len(GOLDEN)):
        assert f"{number:,}" in readme
