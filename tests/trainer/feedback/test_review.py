import pytest

from services.trainer.dataset.words import text_key
from services.trainer.feedback.answered_query import AnsweredQuery, ShadowAnswer
from services.trainer.feedback.review import Reason, ReviewItem, choose, find_reasons


def answered(text: str = "some soup", **changes: object) -> AnsweredQuery:
    values: dict[str, object] = {
        "query_id": "q", "text": text, "at": 1.0, "label": "soup", "confidence": 0.9, "second": 0.05,
        "stage": "linear", "version": 1, "micros": 50, **changes,
    }  # fmt: skip
    return AnsweredQuery(**values)  # type: ignore[arg-type]


def shadow(label: str, error: str = "") -> ShadowAnswer:
    return ShadowAnswer(2, label, 0.8, 60, error)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"confidence": 0.4}, [Reason.UNCERTAIN]),
        ({"confidence": 0.6, "second": 0.45}, [Reason.UNCERTAIN]),
        ({"stage": "keyword", "confidence": 0.0}, [Reason.UNCERTAIN]),
        ({"shadow": shadow("cake")}, [Reason.DISAGREEING]),
        ({"shadow": shadow("soup")}, []),
        ({"shadow": shadow("", "crashed")}, []),
        ({"text": "glorptastic vibes"}, [Reason.UNFAMILIAR]),
        ({"text": "glorptastic soup with noodles"}, []),
        ({"text": "glorptastic soup"}, [Reason.UNFAMILIAR]),
        ({"text": "?!"}, []),
    ],
)
def test_query_is_looked_at_for_a_reason(changes: dict[str, object], expected: list[Reason]) -> None:
    assert expected == [item.reason for item in find_reasons(answered(**changes), {"soup", "noodle"})]  # type: ignore[arg-type]


def test_without_known_words_nothing_drifts() -> None:
    assert list(find_reasons(answered("glorptastic vibes"), set())) == []


def test_most_useful_comes_first_and_its_likes_come_late() -> None:
    items = [
        ReviewItem("spicy noodle soup", Reason.UNCERTAIN, 0.9),
        ReviewItem("spicy noodle soup please", Reason.UNCERTAIN, 0.89),
        ReviewItem("birthday cake", Reason.UNCERTAIN, 0.5),
    ]
    assert [item.text for item in choose(items, 2)] == ["spicy noodle soup", "birthday cake"]


def test_no_query_comes_twice_and_the_strongest_reason_stays() -> None:
    items = [
        ReviewItem("Some soup!", Reason.UNCERTAIN, 0.9),
        ReviewItem("some  soup", Reason.SUSPECTED_NOISE, 0.6),
        ReviewItem("some soup", Reason.UNCERTAIN, 1.0),
    ]
    assert len({item.item_id for item in items} | {text_key("SOME SOUP")}) == 1
    assert [item.reason for item in choose(items, 10)] == [Reason.SUSPECTED_NOISE]
    assert [item.score for item in choose([items[0], items[2]], 10)] == [1.0]
