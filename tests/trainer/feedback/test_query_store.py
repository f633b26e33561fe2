import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete

from services.trainer.database.database import Database
from services.trainer.database.tables import queries
from services.trainer.feedback import query_store as module
from services.trainer.feedback.answered_query import AnsweredQuery, ShadowAnswer
from services.trainer.feedback.deletion import Deleted, delete_queries_before
from services.trainer.feedback.query_store import QueryStore
from tests.query_records import SPOOL, keep, make_record


def ids(found: list[AnsweredQuery]) -> list[str]:
    return [query.query_id for query in found]


def test_query_comes_back_as_it_was_sent(database: Database) -> None:
    labels = [{"label": "soup", "confidence": 0.75}, {"label": "cake", "confidence": 0.25}]
    shadow = {"model_version": 2, "label": "cake", "confidence": 0.5, "latency_micros": 60, "error": ""}
    store = keep(database, make_record("q1", "rainy day", labels=labels, at="2026-01-01T00:00:00.250Z",
                                       experiment_id="e1", arm="champion", shadow=shadow))  # fmt: skip
    expected = AnsweredQuery("q1", "rainy day", 1767225600.25, "soup", 0.75, 0.25, "linear", 1, 50, "e1", "champion",
                             ShadowAnswer(2, "cake", 0.5, 60, ""))  # fmt: skip
    assert ([expected], "rainy day", None) == (store.recent(9), store.text_of("q1"), store.text_of("q2"))


def test_nothing_is_stored_twice_whatever_is_repeated(database: Database) -> None:
    store, records = QueryStore(database), [make_record(f"q{n}") for n in range(1, 6)]
    assert store.position_of(SPOOL) == 0
    assert [store.keep(SPOOL, 3, records[:3]), store.keep(SPOOL, 3, records[:3])] == [3, 0]
    assert [store.keep(SPOOL, 4, records[1:4]), store.keep(SPOOL, 2, records[:2])] == [1, 0]
    assert store.position_of(SPOOL) == 4
    assert store.keep("another", 9, [records[0], records[4], records[4]]) == 1
    assert ids(store.recent(9)) == ["q1", "q2", "q3", "q4", "q5"]
    with database.write() as connection:
        connection.execute(delete(queries))
    assert [store.keep(SPOOL, 4, records[:4]), store.keep(SPOOL, 5, records[2:])] == [0, 1]


def test_two_trainers_that_keep_the_same_batch_store_it_once(database: Database) -> None:
    def keep_all(_: int) -> int:
        return QueryStore(database).keep(SPOOL, 20, [make_record(f"q{n}", "doubtful", stage="keyword")
                                                    for n in range(20)])  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(keep_all, range(4))) == [0, 0, 0, 20]


def test_record_that_no_database_could_hold_is_made_to_fit_or_left_out(database: Database) -> None:
    odd = make_record("q1", "so\0up", stage="x" * 99, labels=[{"label": "so\0up", "confidence": "NaN"}])
    store = keep(database, odd, make_record(""), make_record("x" * 129), make_record("q\0"), make_record("q2"))
    assert ids(store.recent(9)) == ["q1", "q\ufffd", "q2"]
    (first, *_), unknown = store.recent(9), [store.text_of(query_id) for query_id in ("q\0", "", "x" * 129)]
    assert (first.text, first.confidence, len(first.stage), unknown) == ("so\ufffdup", 0.0, 32, [None] * 3)


@pytest.mark.parametrize("seconds", [0, -5, 10**15])
def test_query_without_a_usable_time_counts_as_new_and_grows_old_like_the_others(
    database: Database, seconds: int
) -> None:
    record = make_record("q1", stage="keyword")
    record.at.Clear()
    record.at.seconds = seconds
    before = time.time() - 60
    (query,) = keep(database, record).recent(9)
    assert before < query.at < before + 600
    with database.write() as connection:
        assert delete_queries_before(connection, round((query.at + 1) * 1e6)) == Deleted(queries=1, review_items=1)


def test_only_the_newest_queries_are_kept_and_no_call_deletes_too_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PRUNED", 4)
    keep(database, *(make_record(f"q{n}") for n in range(10)))
    store = QueryStore(database, keep=3)
    kept = []
    for number in range(10, 14):
        store.keep(SPOOL, number + 1, [make_record(f"q{number}")])
        kept.append(len(store.recent(99)))
    assert (kept, ids(store.recent(99))) == ([7, 4, 3, 3], ["q11", "q12", "q13"])


def test_queries_of_an_experiment_and_of_a_version_are_found_in_the_order_of_their_answers(database: Database) -> None:
    # The replica of q3 was away for a while.
    seconds = {"q1": 10, "q2": 20, "q3": 15, "q4": 30, "q5": 40}
    store = keep(database, *(
        make_record(query_id, at=f"2026-01-01T00:00:{second}Z", model_version=2 if query_id == "q4" else 1,
                    experiment_id="e1" if query_id in {"q1", "q4"} else "")
        for query_id, second in seconds.items()
    ))  # fmt: skip
    start, second = 1767225600_000_000, 1_000_000
    assert (ids(store.first_of(1, start + 15 * second, 2)), ids(store.first_of(2, 0, 9))) == (["q3", "q2"], ["q4"])
    assert (ids(store.newest_of(1, 2, 0)), ids(store.newest_of(1, 9, start + 20 * second))) == (["q2", "q5"], ["q5"])
    assert (ids(store.of_experiment("e1", 9)), ids(store.of_experiment("e1", 1))) == (["q1", "q4"], ["q4"])
    assert ids(store.recent(2)) == ["q4", "q5"]
