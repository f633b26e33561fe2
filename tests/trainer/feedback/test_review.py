import json
from pathlib import Path

import pytest
from moodfood.events.v1.events_pb2 import SuspectRecord

from services.trainer.feedback.query_history import AnsweredQuery, QueryHistory, ShadowAnswer
from services.trainer.feedback.review import (
    Reason,
    ReviewItem,
    ReviewQueue,
    choose,
    find_reasons,
    item_id,
    write_suspects,
)
from services.trainer.feedback.store import Feedback, FeedbackStore

EVERY = set(Reason)


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
    listed, waiting = choose(items, set(), EVERY, 2)
    assert ([item.text for item in listed], waiting) == (["spicy noodle soup", "birthday cake"], 3)


def test_no_query_comes_twice_and_the_strongest_reason_stays() -> None:
    items = [
        ReviewItem("Some soup!", Reason.UNCERTAIN, 0.9),
        ReviewItem("some  soup", Reason.SUSPECTED_NOISE, 0.6),
        ReviewItem("some soup", Reason.UNCERTAIN, 1.0),
    ]
    listed, waiting = choose(items, set(), EVERY, 10)
    assert ([item.reason for item in listed], waiting) == ([Reason.SUSPECTED_NOISE], 1)
    assert choose(items, {item_id("some soup")}, EVERY, 10) == ([], 0)
    assert [item.score for item in choose(items, set(), {Reason.UNCERTAIN}, 10)[0]] == [1.0]


def test_queue_gathers_from_log_and_runs_and_leaves_out_what_is_labelled_or_decided(tmp_path: Path) -> None:
    log, feedback = tmp_path / "queries.jsonl", FeedbackStore(tmp_path / "feedback.jsonl")
    for number, text in enumerate(["first doubt", "second doubt", "third doubt"]):
        row = {"event": "query", "query_id": str(number), "text": text, "at": "2026-01-01T00:00:00Z",
               "labels": [{"label": "a", "confidence": 0.2}], "stage": "linear"}  # fmt: skip
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
    odd = SuspectRecord(text="odd one", labels=["a"], reason="suspected_noise", believed="b", confidence=0.97)
    write_suspects(tmp_path / "suspects.jsonl", [odd])
    queue = ReviewQueue(tmp_path, QueryHistory(log), feedback, lambda: ())
    listed, waiting = queue.items(set(), 10)
    assert ({"first doubt", "second doubt", "third doubt", "odd one"}, 4) == ({item.text for item in listed}, waiting)
    feedback.add([Feedback("First doubt", ("a",))])
    queue.close(item_id("second doubt"))
    queue.close(item_id("odd one"))
    for reader in (queue, ReviewQueue(tmp_path, QueryHistory(log), feedback, lambda: ())):
        assert [item.text for item in reader.items(set(), 10)[0]] == ["third doubt"]
