"""Days on which the database is locked or full, or its writer is killed: nothing is half there, nothing lost."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from services.trainer.database import engine
from services.trainer.database.database import Database
from services.trainer.errors import StorageFailed
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.conftest import ROOT
from tests.query_records import SPOOL, make_record, read_feedback

# Adds, and says what was acknowledged. When it is told to, it goes half-way through a transaction and stays there.
WRITER = """
import sys
from services.trainer.database.database import Database, lock_counters
from services.trainer.feedback.store import Feedback, FeedbackStore, store_feedback
database = Database(sys.argv[1])
store = FeedbackStore(database)
for n in range(20):
    both = [Feedback("theirs", ("a",)), Feedback("both", ("b",), user_id="anna", request_id=str(n))]
    print(*store.add(both), flush=True)
sys.stdin.readline()
with database.write() as connection:
    lock_counters(connection, "feedback")
    store_feedback(connection, [Feedback("half", ("a",))])
    print("half-way", flush=True)
    sys.stdin.read()
"""


def test_two_trainers_add_at_once_and_one_is_killed_in_a_transaction(database: Database, database_url: str) -> None:
    store = FeedbackStore(database)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, database_url],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().split()]
        mine = [
            store.add([Feedback("mine", ("a",)), Feedback("both", ("b",), user_id="anna", request_id=str(n))])
            for n in range(20)
        ]
        acknowledged += [writer.stdout.readline().split() for _ in range(19)]
        assert writer.stdin is not None
        print(file=writer.stdin, flush=True)
        assert writer.stdout.readline() == "half-way\n"
        assert "half" not in [row.text for row in read_feedback(database)]
        writer.kill()
    store.add([Feedback("after", ("a",))])
    rows = read_feedback(database)
    assert [both for _, both in acknowledged] == [both for _, both in mine]
    assert {row.feedback_id for row in rows[:-1]} == {said for ids in (*acknowledged, *mine) for said in ids}
    assert [*range(1, 62)] == [row.position for row in rows]
    assert rows[-1].text == "after"


@pytest.fixture
def hasty(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A SQLite file whose writers give up soon."""
    monkeypatch.setattr(engine, "LOCK_SECONDS", 0.05)
    with closing(Database(sqlite_url)) as database:
        yield database


def test_locked_database_refuses_words_and_still_answers(hasty: Database, sqlite_url: str) -> None:
    store, queries = FeedbackStore(hasty), QueryStore(hasty)
    store.add([Feedback("before", ("a",))])
    with closing(Database(sqlite_url)) as other, other.write():
        for write in (
            lambda: store.add([Feedback("refused", ("a",))]),
            lambda: queries.keep(SPOOL, 1, [make_record("q1")]),
            lambda: ReviewQueue(hasty, set).decide("item", None, ""),
        ):
            with pytest.raises(StorageFailed, match="another process holds the database"):
                write()
        assert (
            store.watermark(), [example.text for example in store.export()], queries.text_of("q1")
        ) == (1, ["before"], None)  # fmt: skip
    store.add([Feedback("after", ("a",))])
    assert queries.keep(SPOOL, 1, [make_record("q1")]) == 1
    assert [(row.position, row.text) for row in read_feedback(hasty)] == [(1, "before"), (2, "after")]


def test_full_database_refuses_words_and_stores_nothing_half(hasty: Database) -> None:
    store, queries = FeedbackStore(hasty), QueryStore(hasty)
    store.add([Feedback("before", ("a",))])
    with hasty.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    long = "x" * 9000
    with pytest.raises(StorageFailed, match="the disk of the database is full"):
        store.add([Feedback("small", ("a",)), Feedback(long, ("a",)), Feedback(long, ("b",))])
    with pytest.raises(StorageFailed, match="the disk of the database is full"):
        queries.keep(SPOOL, 9, [make_record(f"q{n}", long) for n in range(9)])
    assert ((store.watermark(), queries.position_of(SPOOL)), queries.recent(9)) == ((1, 0), [])
    with hasty.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    store.add([Feedback("after", ("a",))])
    assert [(row.position, row.text) for row in read_feedback(hasty)] == [(1, "before"), (2, "after")]


def test_damaged_database_is_told_to_callers_without_what_only_an_operator_can_do(hasty: Database) -> None:
    store, file = FeedbackStore(hasty), hasty.file
    assert file is not None
    store.add([Feedback("before", ("a",))])
    hasty.close()
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 200_000)
    with capture_logs() as lines, pytest.raises(StorageFailed) as refusal:
        store.add([Feedback("refused", ("a",))])
    assert str(refusal.value) == "the file of the database is damaged, so nothing was stored"
    assert "moodfood restore" in lines[-1]["do"]
