from pathlib import Path

from services.trainer.feedback.store import Feedback, FeedbackStore


def test_what_was_added_is_read_back_oldest_first_also_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    writer, reader = FeedbackStore(path), FeedbackStore(path)
    assert reader.records() == []
    writer.add([Feedback("one", ("a",))])
    assert [record.text for record in reader.records()] == ["one"]
    ids = writer.add([Feedback("two", ("a", "b"), user_id="u"), Feedback("drei\n🍕", ("b",))])
    assert [record.text for record in reader.records()] == ["one", "two", "drei\n🍕"]
    assert ids == [record.feedback_id for record in reader.records()[1:]]


def test_line_torn_by_a_crash_is_passed_over_and_nothing_after_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    store = FeedbackStore(path)
    store.add([Feedback("one", ("a",))])
    with path.open("ab") as file:
        file.write(b'{"text": "half \xf0\x9f')
    assert [record.text for record in store.records()] == ["one"]
    store.add([Feedback("two", ("a",))])
    for reader in (store, FeedbackStore(path)):
        assert [record.text for record in reader.records()] == ["one", "two"]


def test_deleted_record_is_hidden_and_still_counted_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    store, other = FeedbackStore(path), FeedbackStore(path)
    store.add([Feedback(f"text {n}", ("a",), user_id=f"user {n % 2}") for n in range(4)])
    assert len(other.records()) == 4
    deleted = store.delete(lambda record: record.user_id == "user 1")
    assert [record.text for record in deleted] == ["text 1", "text 3"]
    for reader in (store, other, FeedbackStore(path)):
        assert [record.text for record in reader.records()] == ["text 0", "text 2"]
        assert (reader.count(), reader.count_new_texts(1)) == (4, 1)
    assert "user 1" not in path.read_text()
    assert store.delete(lambda record: record.user_id == "user 1") == []


def test_file_that_was_replaced_by_a_shorter_one_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    store = FeedbackStore(path)
    store.add([Feedback(f"text {n}", ("a",)) for n in range(5)])
    store.records()
    kept = path.read_bytes().splitlines(keepends=True)[3]
    path.write_bytes(kept)
    assert [record.text for record in store.records()] == ["text 3"]
