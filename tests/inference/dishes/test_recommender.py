import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.classifiers.ranking import Intent
from services.inference.classifiers.taxonomy import load_taxonomy
from services.inference.dishes.catalogue import NO_CATALOGUE, load_catalogue
from services.inference.dishes.recommender import Recommender
from services.inference.errors import InvalidQuery
from tests.conftest import SHIPPED

TAXONOMY = load_taxonomy(SHIPPED / "taxonomy" / "mood_food_taxonomy.json")
CATALOGUE = load_catalogue(SHIPPED / "catalogue" / "dishes.json")
RECOMMENDER = Recommender(TAXONOMY, CATALOGUE)
NO_DIETS: frozenset[str] = frozenset()


@settings(max_examples=300, deadline=None)
@given(
    labels=st.lists(st.sampled_from(sorted(TAXONOMY.entries)), max_size=5),
    diets=st.lists(st.sampled_from(CATALOGUE.diets), max_size=4),
    query=st.sampled_from(["cheese please", "bacon", "nuts and milk", "egg"]),
)
def test_no_dish_ever_breaks_a_restriction(labels: list[str], diets: list[str], query: str) -> None:
    intents = [Intent(label, 0.2) for label in labels]
    ranked = RECOMMENDER.recommend(query, intents, {"weather": "cold", "mood": "sad"}, frozenset(diets), 50)
    assert all(set(diets) <= dish.dish.diets for dish in ranked)


def test_dishes_are_ranked_with_scores_between_0_and_1() -> None:
    intents = [Intent("goal_comfort", 0.6), Intent("weather_rainy", 0.3)]
    ranked = RECOMMENDER.recommend("comfort food", intents, {}, NO_DIETS, 10)
    scores = [dish.score for dish in ranked]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert all(0 < score <= 1 for score in scores)


def test_context_shifts_the_ranking() -> None:
    intents = [Intent("goal_comfort", 0.2)]
    without = RECOMMENDER.recommend("food", intents, {}, NO_DIETS, 5)
    in_the_cold = RECOMMENDER.recommend("food", intents, {"weather": "cold"}, NO_DIETS, 5)
    cold_dishes = TAXONOMY.entries["weather_cold"].dishes
    assert in_the_cold[0].dish.name in cold_dishes
    assert without[0].dish.name != in_the_cold[0].dish.name


@pytest.mark.parametrize("spelling", ["nut_free", "nut-free", "Nut Free", " NUT_FREE "])
def test_restrictions_are_understood_in_common_spellings(spelling: str) -> None:
    assert frozenset({"nut_free"}) == CATALOGUE.resolve_diets([spelling])


def test_restriction_that_nobody_knows_is_refused_not_ignored() -> None:
    with pytest.raises(InvalidQuery, match=r"use one of .*vegan") as refusal:
        CATALOGUE.resolve_diets(["vegan", "paleo"])
    assert refusal.value.field == "context.dietary_restrictions[1]"


def test_catalogue_without_diets_refuses_every_restriction() -> None:
    with pytest.raises(InvalidQuery, match="knows none"):
        NO_CATALOGUE.resolve_diets(["vegan"])


def test_unknown_label_still_gets_dishes() -> None:
    assert RECOMMENDER.recommend("qwxyz", [Intent("unknown", 0.0)], {}, frozenset({"vegan"}), 3)


def test_without_a_taxonomy_and_a_catalogue_there_are_no_dishes() -> None:
    recommender = Recommender(load_taxonomy(None), load_catalogue(None))
    assert recommender.recommend("soup", [Intent("billing", 0.9)], {"mood": "sad"}, NO_DIETS, 5) == []
