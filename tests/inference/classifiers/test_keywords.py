from services.inference.classifiers.keywords import NO_MATCH, KeywordClassifier
from services.inference.classifiers.taxonomy import LabelEntry


def entry(label: str, *descriptors: str) -> LabelEntry:
    return LabelEntry(label, label.split("_")[0], "", descriptors, ())


CLASSIFIER = KeywordClassifier(
    [
        entry("weather_rainy", "rain", "umbrella"),
        entry("temperature_warm", "warm", "warm me"),
        entry("atmosphere_cozy", "cozy", "blanket"),
        entry("meal_drink", "warm"),
    ]
)


def labels(query: str, top_k: int = 5) -> list[str]:
    return [intent.label for intent in CLASSIFIER.rank([query], top_k, [])[0].intents]


def test_words_match_by_stem() -> None:
    assert labels("it RAINED on my umbrellas") == ["weather_rainy"]


def test_longer_phrase_counts_more_and_a_shared_word_less() -> None:
    assert labels("warm me")[0] == "temperature_warm"
    assert set(labels("something warm")) == {"temperature_warm", "meal_drink"}


def test_name_of_the_label_is_a_descriptor() -> None:
    assert labels("rainy") == ["weather_rainy"]


def test_keyword_stage_invents_no_confidence() -> None:
    (ranking,) = CLASSIFIER.rank(["cozy"], 5, [])
    assert [intent.confidence for intent in ranking.intents] == [0.0]


def test_no_match_is_an_abstention() -> None:
    (ranking,) = CLASSIFIER.rank(["zzz"], 5, [])
    assert (ranking.intents, ranking.abstained_because) == ((), NO_MATCH)


def test_at_most_top_k_labels_are_ranked() -> None:
    assert len(labels("warm cozy rain", top_k=2)) == 2
