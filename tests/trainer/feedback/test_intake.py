import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing

import pytest

from services.trainer.database.database import Database
from services.trainer.dataset.files import BadLine, Format
from services.trainer.dataset.words import text_key
from services.trainer.errors import InvalidRequest, ReviewItemNotFound, UnknownQuery
from services.trainer.feedback import intake as module
from services.trainer.feedback.intake import Intake
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import FeedbackStore
from tests.query_records import keep, make_record, read_feedback

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A SQLite file only: intake itself speaks no SQL."""
    with closing(Database(sqlite_url)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARRIVAL_SECONDS", 0.01)


def intake(database: Database, labels: Sequence[str] = ("a", "b")) -> Intake:
    return Intake(FeedbackStore(database), QueryStore(database), ReviewQueue(database, set), lambda: labels)


def doubt(database: Database, query_id: str, text: str) -> None:
    keep(database, make_record(query_id, text, stage="keyword"))


async def examples(*rows: tuple[str, Sequence[str]]) -> AsyncIterator[tuple[str, Sequence[str]]]:
    for row in rows:
        yield row


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            ["printer", "hardware"],
            "'hardwear' is not a known label; did you mean 'hardware'? Known labels: printer, hardware",
        ),
        (["printer"], "'hardwear' is not a known label. Known labels: printer"),
        (["x" * 50], f"'hardwear' is not a known label. Known labels: {'x' * 40}…"),
        ([*"abcdefghijkl"], "'hardwear' is not a known label. Known labels: a, b, c, d, e, f, g, h, i, j and 2 more"),
    ],
)
async def test_unknown_label_is_refused_with_the_known_ones(
    database: Database, known: list[str], expected: str
) -> None:
    subject = intake(database, known)
    with pytest.raises(InvalidRequest) as refused:
        await subject.add("", "hello", ["hardwear"], "")
    assert expected == refused.value.problem


async def test_feedback_by_query_id_is_stored_with_the_text_of_the_query(database: Database) -> None:
    subject = intake(database)
    doubt(database, "q1", "rainy day")
    feedback_id = await subject.add("q1", "", ["a"], "user-7")
    (record,) = read_feedback(database)
    assert (feedback_id, "rainy day", ["a"], "q1", "user-7", "feedback") == (
        record.feedback_id,
        record.text,
        list(record.labels),
        record.query_id,
        record.user_id,
        record.source,
    )


@pytest.mark.parametrize(
    ("query_id", "text", "labels", "field"),
    [
        ("", "", ["a"], "query_id"),
        ("q1", "both", ["a"], "text"),
        ("", "hello", [], "labels"),
        ("", "hello", ["nope"], "labels[0]"),
        ("", "hello", ["a", "a"], "labels"),
        ("", "hello", ["a"] * 11, "labels"),
        ("", "a\0b", ["a"], "text"),
        ("", "?!", ["a"], "text"),
        ("", "x" * 10_001, ["a"], "text"),
    ],
)
async def test_bad_feedback_names_its_field_and_stores_nothing(
    database: Database, query_id: str, text: str, labels: list[str], field: str
) -> None:
    subject = intake(database)
    with pytest.raises(InvalidRequest) as refusal:
        await subject.add(query_id, text, labels, "")
    assert (field, []) == (refusal.value.field, read_feedback(database))


async def test_feedback_waits_for_a_query_that_has_not_arrived_yet(database: Database) -> None:
    given = asyncio.create_task(intake(database).add("q1", "", ["a"], ""))
    await asyncio.sleep(0.02)
    await asyncio.to_thread(keep, database, make_record("q1", "rainy day"))
    assert await given == read_feedback(database)[0].feedback_id


async def test_query_id_that_nobody_sent_is_unknown(database: Database) -> None:
    subject = intake(database)
    with pytest.raises(UnknownQuery):
        await subject.add("nope", "", ["a"], "")
    assert read_feedback(database) == []


async def test_import_stores_all_or_nothing_and_names_each_bad_line(database: Database) -> None:
    subject = intake(database)
    imported, errors = await subject.add_all(examples(("ok", ["a"]), ("", ["a"]), ("x", ["nope"]), ("y", [])))
    assert (imported, read_feedback(database)) == (0, [])
    assert [(error.line, error.field) for error in errors] == [(2, "text"), (3, "labels[0]"), (4, "labels")]
    assert await subject.add_all(examples(("ok", ["a"]), ("fine", ["b"]))) == (2, [])
    assert [record.source for record in read_feedback(database)] == ["import", "import"]


async def test_same_request_is_stored_once(database: Database) -> None:
    subject = intake(database)
    first = await subject.add("", "rainy day", ["a"], "anna", "order-17")
    assert first == await subject.add("", "rainy day", ["a"], "anna", "order-17")
    assert first != await subject.add("", "rainy day", ["a"], "anna", "order-18")
    assert first != await subject.add("", "rainy day", ["a"], "ben", "order-17")
    assert len(read_feedback(database)) == 3


async def test_file_is_stored_whole_or_not_at_all(database: Database) -> None:
    subject = intake(database)
    imported, errors = await subject.add_file(b"text,labels\nok,a\nbad,nope\n", Format.CSV)
    assert ((imported, [(e.line, e.field) for e in errors]), read_feedback(database)) == ((0, [(3, "labels[0]")]), [])
    assert await subject.add_file(b'text,labels\n"well, ok",a|b\n', Format.CSV) == (1, [])
    assert [(record.text, list(record.labels)) for record in read_feedback(database)] == [("well, ok", ["a", "b"])]


async def test_reviewed_query_is_learned_and_never_shown_again(database: Database) -> None:
    subject = intake(database)
    doubt(database, "q1", "rainy day")
    waiting = text_key("rainy day")
    await subject.resolve(waiting, ["b"], out_of_scope=False, dismiss=False, user_id="anna")
    (record,) = read_feedback(database)
    assert (
        record.text, list(record.labels), record.source, record.query_id, record.user_id
    ) == ("rainy day", ["b"], "review", "q1", "anna")  # fmt: skip
    with pytest.raises(ReviewItemNotFound):
        await subject.resolve(waiting, ["b"], out_of_scope=False, dismiss=False, user_id="anna")


async def test_dismissed_query_teaches_nothing_and_one_out_of_scope_does(database: Database) -> None:
    subject = intake(database)
    doubt(database, "q1", "rainy day")
    doubt(database, "q2", "capital of france")
    assert await subject.resolve(text_key("rainy day"), [], out_of_scope=False, dismiss=True, user_id="") == ""
    assert await subject.resolve(text_key("capital of france"), [], out_of_scope=True, dismiss=False, user_id="")
    assert [(record.text, list(record.labels)) for record in read_feedback(database)] == [("capital of france", [])]


@pytest.mark.parametrize(("labels", "out_of_scope", "dismiss"), [([], False, False), (["a"], True, False)])
async def test_review_is_one_decision(database: Database, labels: list[str], out_of_scope: bool, dismiss: bool) -> None:
    subject = intake(database)
    with pytest.raises(InvalidRequest, match="exactly one"):
        await subject.resolve("x", labels, out_of_scope=out_of_scope, dismiss=dismiss, user_id="")


async def test_import_takes_no_more_memory_than_its_limits_allow(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object) -> Iterator[BadLine]:
        yield from (BadLine(line, "line", "is not JSON") for line in range(3))
        pytest.fail("lines were read that cannot be stored")

    monkeypatch.setattr(module, "MAX_IMPORTED", 2)
    monkeypatch.setattr(module, "parse_file", parse)
    with pytest.raises(InvalidRequest, match="more than 2"):
        await intake(database).add_file(b"", Format.JSON_LINES)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 20)
    with pytest.raises(InvalidRequest, match="import them in parts"):
        await intake(database).add_all(examples(("x" * 20, ["a"])))


async def test_checks_that_take_long_are_not_made_on_the_event_loop(database: Database) -> None:
    threads = set[int]()

    class Known(tuple[str, ...]):
        def __contains__(self, label: object) -> bool:
            threads.add(threading.get_ident())
            return super().__contains__(label)

    def known_labels() -> Sequence[str]:
        threads.add(threading.get_ident())
        return Known("ab")

    subject = Intake(FeedbackStore(database), QueryStore(database), ReviewQueue(database, set), known_labels)
    assert await subject.add_file(b'{"text": "soup", "labels": ["a"]}', Format.JSON_LINES) == (1, [])
    assert await subject.add_all(examples(("cake", ["b"]))) == (1, [])
    assert threading.get_ident() not in threads
