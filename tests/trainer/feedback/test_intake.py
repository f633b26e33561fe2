import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from services.trainer.dataset.files import Format
from services.trainer.errors import InvalidRequest, ReviewItemNotFound, UnknownQuery
from services.trainer.feedback import query_history
from services.trainer.feedback.intake import Intake
from services.trainer.feedback.query_history import QueryHistory
from services.trainer.feedback.review import ReviewQueue, item_id
from services.trainer.feedback.store import FeedbackStore

pytestmark = pytest.mark.anyio


def intake(folder: Path, labels: Sequence[str] = ("a", "b")) -> tuple[Intake, FeedbackStore]:
    store = FeedbackStore(folder / "feedback.jsonl")
    history = QueryHistory(folder / "queries.jsonl")
    queue = ReviewQueue(folder / "review", history, store, lambda: ())
    return Intake(store, history, queue, lambda: labels), store


def log_query(folder: Path, query_id: str, text: str) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"event": "query", "query_id": query_id, "text": text}) + "\n")


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
async def test_unknown_label_is_refused_with_the_known_ones(tmp_path: Path, known: list[str], expected: str) -> None:
    subject, _ = intake(tmp_path, known)
    with pytest.raises(InvalidRequest) as refused:
        await subject.add("", "hello", ["hardwear"], "")
    assert expected == refused.value.problem


async def test_feedback_by_query_id_is_stored_with_the_logged_text(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    log_query(tmp_path, "q1", "rainy day")
    feedback_id = await subject.add("q1", "", ["a"], "user-7")
    (record,) = store.records()
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
    tmp_path: Path, query_id: str, text: str, labels: list[str], field: str
) -> None:
    subject, store = intake(tmp_path)
    with pytest.raises(InvalidRequest) as refusal:
        await subject.add(query_id, text, labels, "")
    assert (field, []) == (refusal.value.field, store.records())


async def test_query_id_that_nobody_logged_is_unknown(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    with pytest.raises(UnknownQuery):
        await subject.add("nope", "", ["a"], "")
    assert store.records() == []


async def test_import_stores_all_or_nothing_and_names_each_bad_line(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    imported, errors = await subject.add_all(examples(("ok", ["a"]), ("", ["a"]), ("x", ["nope"]), ("y", [])))
    assert (imported, store.records()) == (0, [])
    assert [(error.line, error.field) for error in errors] == [(2, "text"), (3, "labels[0]"), (4, "labels")]
    assert await subject.add_all(examples(("ok", ["a"]), ("fine", ["b"]))) == (2, [])
    assert [record.source for record in store.records()] == ["import", "import"]


async def test_same_request_is_stored_once(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    first = await subject.add("", "rainy day", ["a"], "", "order-17")
    assert first == await subject.add("", "rainy day", ["a"], "", "order-17")
    assert first != await subject.add("", "rainy day", ["a"], "", "order-18")
    assert len(store.records()) == 2
    assert first == await intake(tmp_path)[0].add("", "rainy day", ["b"], "", "order-17")


async def test_file_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    imported, errors = await subject.add_file(b"text,labels\nok,a\nbad,nope\n", Format.CSV)
    assert ((imported, [(e.line, e.field) for e in errors]), store.records()) == ((0, [(3, "labels[0]")]), [])
    assert await subject.add_file(b'text,labels\n"well, ok",a|b\n', Format.CSV) == (1, [])
    assert [(record.text, list(record.labels)) for record in store.records()] == [("well, ok", ["a", "b"])]


async def test_reviewed_query_is_learned_and_never_shown_again(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    log_query(tmp_path, "q1", "rainy day")
    waiting = item_id("rainy day")
    await subject.resolve(waiting, ["b"], out_of_scope=False, dismiss=False, user_id="anna")
    (record,) = store.records()
    assert (
        record.text, list(record.labels), record.source, record.query_id, record.user_id
    ) == ("rainy day", ["b"], "review", "q1", "anna")  # fmt: skip
    with pytest.raises(ReviewItemNotFound):
        await subject.resolve(waiting, ["b"], out_of_scope=False, dismiss=False, user_id="anna")


async def test_two_reviewers_of_one_item_decide_it_once(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    log_query(tmp_path, "q1", "rainy day")
    decisions = [
        subject.resolve(item_id("rainy day"), [label], out_of_scope=False, dismiss=False, user_id="") for label in "ab"
    ]
    ended = await asyncio.gather(*decisions, return_exceptions=True)
    assert [str, ReviewItemNotFound] == [type(each) for each in ended]
    assert [list(record.labels) for record in store.records()] == [["a"]]


async def test_dismissed_query_teaches_nothing_and_one_out_of_scope_does(tmp_path: Path) -> None:
    subject, store = intake(tmp_path)
    log_query(tmp_path, "q1", "rainy day")
    log_query(tmp_path, "q2", "capital of france")
    assert await subject.resolve(item_id("rainy day"), [], out_of_scope=False, dismiss=True, user_id="") == ""
    assert await subject.resolve(item_id("capital of france"), [], out_of_scope=True, dismiss=False, user_id="")
    assert [(record.text, list(record.labels)) for record in store.records()] == [("capital of france", [])]


@pytest.mark.parametrize(("labels", "out_of_scope", "dismiss"), [([], False, False), (["a"], True, False)])
async def test_review_is_one_decision(tmp_path: Path, labels: list[str], out_of_scope: bool, dismiss: bool) -> None:
    subject, _ = intake(tmp_path)
    with pytest.raises(InvalidRequest, match="exactly one"):
        await subject.resolve("x", labels, out_of_scope=out_of_scope, dismiss=dismiss, user_id="")


async def test_index_follows_the_log_across_a_rotation(tmp_path: Path) -> None:
    index, log = QueryHistory(tmp_path / "queries.jsonl"), tmp_path / "queries.jsonl"
    log_query(tmp_path, "q1", "one")
    assert index.text_of("q1") == "one"
    log_query(tmp_path, "q2", "two")
    log.rename(tmp_path / "queries.jsonl.1")
    log_query(tmp_path, "q3", "three")
    assert [index.text_of(each) for each in ("q3", "q2", "q1", "q4")] == ["three", "two", "one", None]


async def test_no_more_of_a_long_log_is_read_than_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (3, 2, 1):
        log_query(tmp_path, f"q{number}", "x" * 100)
        (tmp_path / "queries.jsonl").rename(tmp_path / f"queries.jsonl.{number}")
    log_query(tmp_path, "q0", "now")
    monkeypatch.setattr(query_history, "LOOK_BACK_BYTES", 250)
    history = QueryHistory(tmp_path / "queries.jsonl")
    assert [bool(history.text_of(f"q{number}")) for number in range(4)] == [True, True, True, False]


async def test_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    index, log = QueryHistory(tmp_path / "queries.jsonl"), tmp_path / "queries.jsonl"
    line = json.dumps({"event": "query", "query_id": "q1", "text": "one"})
    log.write_text(line[:20])
    assert index.text_of("q1") is None
    with log.open("a") as file:
        file.write(line[20:] + "\nnot json\n")
    assert index.text_of("q1") == "one"
