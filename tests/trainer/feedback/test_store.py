from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete

from services.trainer.database.database import Database
from services.trainer.database.tables import feedback
from services.trainer.dataset.examples import Example
from services.trainer.errors import InvalidRequest
from services.trainer.feedback import store as module
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.query_records import keep, make_record, read_feedback


def test_what_was_added_is_read_back_in_both_directions_also_by_another_trainer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    other = Database(database.url)
    writer, reader = FeedbackStore(database), FeedbackStore(other)
    assert (list(reader.export()), reader.watermark(), reader.newest()) == ([], 0, None)
    writer.add([Feedback("one", ("a",))])
    ids = writer.add([Feedback("two", ("a", "b"), user_id="u", source="import"), Feedback("drei\n🍕", ())])
    expected = [Example("one", ("a",), "feedback"), Example("two", ("a", "b"), "import"),
                Example("drei\n🍕", (), "feedback")]  # fmt: skip
    assert (expected, expected[::-1]) == (list(reader.export()), list(reader.newest_first()))
    assert (3, ids) == (reader.watermark(), [row.feedback_id for row in read_feedback(database)[1:]])
    assert reader.newest() is not None
    other.close()


def test_what_is_written_while_somebody_reads_is_left_for_the_next_reader(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 1)
    store = FeedbackStore(database)
    store.add([Feedback(f"text {n}", ("a",)) for n in range(3)])
    for read, expected in ((store.export, ["text 0", "text 2"]), (store.newest_first, ["late", "text 2", "text 0"])):
        reading = read()
        seen = [next(reading).text]
        with database.write() as connection:
            connection.execute(delete(feedback).where(feedback.c.text == "text 1"))
        store.add([Feedback("late", ("a",))])
        assert expected == [*seen, *(example.text for example in reading)]
        assert store.watermark() == 4 + (read == store.newest_first)


def test_request_of_one_caller_is_stored_once_and_that_of_another_caller_too(database: Database) -> None:
    def add(user_id: str) -> str:
        return FeedbackStore(database).add([Feedback("rainy day", ("a",), user_id=user_id, request_id="order-17")])[0]

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(add, ["anna", "ben", ""] * 4))
    assert [ids[:3]] * 4 == [ids[start : start + 3] for start in (0, 3, 6, 9)]
    assert len(set(ids)) == 3
    assert len(read_feedback(database)) == 3


@pytest.mark.parametrize(("said", "labels"), [("sunny day", ("a",)), ("rainy day", ("b",))])
def test_request_id_that_comes_with_other_feedback_is_refused_and_not_taken_for_the_first(
    database: Database, said: str, labels: tuple[str, ...]
) -> None:
    store = FeedbackStore(database)
    store.add([Feedback("rainy day", ("a",), user_id="anna", request_id="1")])
    with pytest.raises(InvalidRequest, match="request_id: was used for other feedback"):
        store.add([Feedback("first", ("a",)), Feedback(said, labels, user_id="anna", request_id="1")])
    assert [row.text for row in read_feedback(database)] == ["rainy day"]


def test_request_that_comes_twice_in_one_call_is_stored_once(database: Database) -> None:
    twice = [Feedback("rainy day", ("a",), request_id="x"), Feedback("rainy day", ("b",), request_id="x")]
    first, second = FeedbackStore(database).add(twice)
    assert (first, [["a"]]) == (second, [row.labels for row in read_feedback(database)])


def test_new_texts_count_once_however_they_are_spelt_and_not_when_they_are_gone(database: Database) -> None:
    store = FeedbackStore(database)
    store.add([Feedback("seen", ("a",)), Feedback("new", ("a",)), Feedback("NEW!", ("b",)), Feedback("gone", ("a",))])
    with database.write() as connection:
        connection.execute(delete(feedback).where(feedback.c.text == "gone"))
    assert tuple(map(store.count_new_texts, (0, 1, 3))) == (2, 1, 0)
    assert store.watermark() == 4


def test_counting_new_texts_stops_at_its_bound(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_COUNTED", 2)
    FeedbackStore(database).add([Feedback(f"text {n}", ("a",)) for n in range(5)])
    assert FeedbackStore(database).count_new_texts(0) == 2


def test_labels_of_an_experiment_are_those_of_its_newest_queries_and_the_last_word_counts(database: Database) -> None:
    keep(database, *(make_record(f"q{n}", experiment_id="e1" if n else "e0") for n in range(4)))
    store = FeedbackStore(database)
    said = [("q0", "a"), ("q1", "a"), ("q2", "a"), ("q3", "a"), ("q3", "b"), ("", "c")]
    store.add([Feedback("soup", (label,), query_id) for query_id, label in said])
    store.add([Feedback("soup", (), "q2")])
    assert store.labels_in_experiment("e1", 2) == {"q2": ("a",), "q3": ("b",)}
