from concurrent.futures import ThreadPoolExecutor

import pytest

from services.trainer.database.database import Database
from services.trainer.dataset.words import text_key
from services.trainer.errors import ReviewItemNotFound
from services.trainer.feedback import review_queue as module
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import ReviewQueue, replace_suspects
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.query_records import SPOOL, keep, make_record, read_feedback


def doubt(database: Database, *texts: str) -> None:
    """Store queries that only the keyword stage answered."""
    stored = QueryStore(database).position_of(SPOOL)
    records = [make_record(f"q{stored + n}", text, stage="keyword") for n, text in enumerate(texts)]
    keep(database, *records)


def queue(database: Database, *known_words: str) -> ReviewQueue:
    return ReviewQueue(database, lambda: known_words)


def texts(database: Database, *reasons: Reason) -> list[str]:
    return sorted(item.text for item in queue(database).items(reasons, 99)[0])


def suspect(text: str, score: float = 0.97) -> ReviewItem:
    return ReviewItem(text, Reason.SUSPECTED_NOISE, score, "b", score, ("a",))


def test_queue_gathers_from_queries_and_runs_and_leaves_out_what_is_labelled_or_decided(database: Database) -> None:
    doubt(database, "first doubt", "second doubt", "third doubt", "First doubt!")
    replace_suspects(database, [suspect("odd one"), suspect("odd two")])
    assert queue(database).items(set(), 2)[1] == 5
    FeedbackStore(database).add([Feedback("FIRST doubt", ("a",)), Feedback("odd two", ("a",))])
    queue(database).decide(text_key("second doubt"), None, "anna")
    queue(database).decide(text_key("odd one"), ["b"], "anna")
    assert texts(database) == ["odd two", "third doubt"]
    doubt(database, "first doubt", "second doubt", "odd one")
    replace_suspects(database, [suspect("odd one"), suspect("second doubt"), suspect("odd three")])
    assert texts(database) == ["odd three", "third doubt"]


def test_item_keeps_its_best_score_and_its_strongest_reason(database: Database) -> None:
    def uncertain(query_id: str, confidence: float) -> None:
        keep(database, make_record(query_id, labels=[{"label": query_id, "confidence": confidence}]))

    uncertain("q1", 0.4)
    uncertain("q2", 0.1)
    uncertain("q3", 0.3)
    (item,), waiting = queue(database).items([Reason.UNCERTAIN], 9)
    assert ((item.query_id, item.score), waiting) == (("q2", 0.9), 1)
    contradiction = ReviewItem("Some soup", Reason.DISAGREEING, 1.0)
    replace_suspects(database, [contradiction])
    shadow = {"model_version": 2, "label": "cake", "confidence": 0.9}
    keep(database, make_record("q4", shadow=shadow))
    assert ([contradiction], 1) == queue(database).items(set(), 9)
    replace_suspects(database, [])
    assert [item.reason for item in queue(database).items(set(), 9)[0]] == [Reason.UNCERTAIN]


def test_word_that_the_champion_has_learned_meanwhile_is_unfamiliar_no_more(database: Database) -> None:
    store = QueryStore(database, lambda: {"soup"})
    store.keep(SPOOL, 2, [make_record("q1", "glorptastic vibes"), make_record("q2", "wobbly things")])
    assert queue(database, "glorptastic", "vibe", "wobbly").items([Reason.UNCERTAIN], 9) == ([], 0)
    listed, waiting = queue(database, "glorptastic", "vibe").items(set(), 9)
    assert ([item.text for item in listed], waiting) == (["wobbly things"], 1)
    # Without a champion no words are known, which says nothing about a query.
    assert queue(database).items(set(), 9)[1] == 1


def test_oldest_queries_make_room_and_suspects_stay(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    monkeypatch.setattr(module, "MOST_SUSPECTS", 1)
    keep(database, *(make_record(f"q{n}", f"doubt {n}", stage="keyword", at=f"2026-01-0{4 - n}T00:00:00Z")
                     for n in range(4)))  # fmt: skip
    assert texts(database) == ["doubt 0", "doubt 1", "doubt 2"]
    replace_suspects(database, [suspect("weak", 0.6), suspect("strong")])
    assert texts(database) == ["doubt 0", "doubt 1", "strong"]


def test_two_reviewers_of_one_item_decide_it_once(database: Database) -> None:
    doubt(database, "rainy day")
    item = queue(database).item(text_key("rainy day"))

    def decide(label: str) -> str:
        try:
            return ReviewQueue(database, set).decide(item.item_id, [label], label)
        except ReviewItemNotFound:
            return "too late"

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(decide, "abcd"))
    (row,) = read_feedback(database)
    assert (sorted([row.feedback_id, *["too late"] * 3]), row.labels) == (sorted(said), [row.user_id])
    assert (row.text, row.query_id, row.source) == ("rainy day", "q0", "review")


@pytest.mark.parametrize("unknown", ["nope", "x\0y", "x" * 500])
def test_item_that_nobody_listed_is_not_found(database: Database, unknown: str) -> None:
    with pytest.raises(ReviewItemNotFound):
        queue(database).item(unknown)
