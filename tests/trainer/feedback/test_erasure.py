import asyncio
from collections.abc import Collection, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

from services.trainer import __main__ as trainer
from services.trainer.database.database import Database
from services.trainer.database.tables import feedback, metadata, queries, review_items
from services.trainer.dataset.vectors import digest_of, open_vectors, to_keys, write_vectors
from services.trainer.dataset.words import text_key
from services.trainer.errors import StorageFailed
from services.trainer.feedback import deletion, erasures
from services.trainer.feedback import erasure as erasure_module
from services.trainer.feedback.embedding_erasure import EmbeddingErasure, mark_clean
from services.trainer.feedback.erasure import Erased, Erasure, ReplicasErased
from services.trainer.feedback.erasures import ErasedQueries, Erasures
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import ReviewQueue, replace_suspects
from services.trainer.feedback.run_feedback import RunFeedback
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.query_records import SPOOL, keep, make_record, read_feedback

pytestmark = pytest.mark.anyio


class Places:
    """Snapshots and embeddings of a text each, and two replicas; they remember what they were asked to delete."""

    def __init__(self) -> None:
        self.texts = {"anna one", "anna two", "Anna two!", "ben one"}
        self.broken = False
        self.asked: list[tuple[set[str], datetime | None]] = []

    def delete(self, texts: Collection[str]) -> int:
        if self.broken:
            raise StorageFailed("cannot delete snapshots")
        found = self.texts.intersection(texts)
        self.texts -= found
        return len(found)

    async def ask(self, query_ids: Sequence[str], before: datetime | None) -> ReplicasErased:
        self.asked.append((set(query_ids), before))
        return ReplicasErased(log_lines=len(query_ids), spooled=1, pending=1)

    def erasure(self, database: Database) -> Erasure:
        return Erasure(database, self.delete, lambda: 0, self.ask)


def fill(database: Database) -> FeedbackStore:
    """Anna said two texts, one of which she also asked elsewhere; Ben said one, and somebody imported one of hers."""
    store = FeedbackStore(database)
    keep(database, *(make_record(query_id, said, stage="keyword") for query_id, said in (
        ("q1", "anna one"), ("q2", "anna two"), ("q3", "ben one"), ("q4", "ANNA ONE?"), ("q5", "nobody")
    )))  # fmt: skip
    ReviewQueue(database, set).decide(text_key("anna two"), ["a"], "anna")
    replace_suspects(database, [ReviewItem("anna one", Reason.SUSPECTED_NOISE, 0.9)])
    store.add(
        [
            Feedback("anna one", ("a",), "q1", "anna", request_id="x"),
            Feedback("ben one", ("a",), "q3", "ben"),
            Feedback("Anna two!", ("b",), source="import"),
            Feedback("somewhere", ("a",), "late", "anna"),
        ]
    )
    return store


def left(database: Database) -> str:
    """Return everything that the database holds."""
    with database.read() as connection:
        return "\n".join(str(row) for table in metadata.sorted_tables for row in connection.execute(select(table)))


async def test_everything_a_person_said_is_gone_from_every_place_and_nothing_else(database: Database) -> None:
    store, places = fill(database), Places()
    watermark = store.watermark()

    erased = await places.erasure(database).forget_person("anna")

    expected = Erased(feedback=3, imports=1, queries=3, review_items=1, snapshots=3, log_lines=4, spooled=1,
                      replicas_pending=1)  # fmt: skip
    assert expected == erased
    assert [({"q1", "q2", "q4", "late"}, None)] == places.asked
    assert {"ben one"} == places.texts
    assert "anna" not in left(database).lower()
    assert (
        [example.text for example in store.export()],
        [item.text for item in ReviewQueue(database, set).items(set(), 9)[0]],
    ) == (["ben one"], ["nobody"])
    assert [QueryStore(database).text_of(query_id) for query_id in ("q1", "q3", "q4")] == [None, "ben one", None]
    assert watermark == store.watermark()
    assert Erased() == await places.erasure(database).forget_person("anna")
    assert len(places.asked) == 1
    # Her decision is gone as well, so the text may wait again when somebody else asks it.
    keep(database, make_record("q6", "anna two", stage="keyword"))
    assert ReviewQueue(database, set).item(text_key("anna two")).query_id == "q6"


async def test_person_who_said_very_much_is_forgotten_in_parts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(erasures, "TEXTS_AT_ONCE", 1)
    places = Places()
    places.texts = {f"text {n}" for n in range(5)}
    FeedbackStore(database).add([Feedback(f"text {n}", ("a",), f"q{n}", "anna") for n in range(5)])
    expected = Erased(feedback=5, snapshots=5, log_lines=5, spooled=1, replicas_pending=1)
    assert expected == await places.erasure(database).forget_person("anna")
    assert ({f"q{n}" for n in range(5)}, "") == (places.asked[0][0], "".join(places.texts))


async def test_place_that_fails_is_worked_off_by_the_next_call_whoever_it_is_for(database: Database) -> None:
    store, places = fill(database), Places()
    places.broken = True
    with pytest.raises(StorageFailed, match="cannot delete snapshots"):
        await places.erasure(database).forget_person("anna")
    assert [example.text for example in store.export()] == ["ben one"]
    places.broken = False
    assert Erased(snapshots=3) == await places.erasure(database).forget_person("anna")
    assert "anna" not in left(database).lower()


async def test_file_of_the_database_holds_nothing_any_more_of_what_was_erased(sqlite_url: str, tmp_path: Path) -> None:
    with closing(Database(sqlite_url)) as database:
        said = ["anna " + "says much " * 900, *(f"anna says {n}" for n in range(200))]
        FeedbackStore(database).add([Feedback(text, ("a",), user_id="anna") for text in said])
        keep(database, *(make_record(f"q{n}", text, stage="keyword") for n, text in enumerate(said)))
        await Places().erasure(database).forget_person("anna")
        left_in_files = b"".join(path.read_bytes() for path in tmp_path.glob("test.db*"))
        assert b"anna says" not in left_in_files
        assert b"says much" not in left_in_files


async def test_person_is_forgotten_everywhere_also_when_the_caller_gives_up_because_a_replica_hangs(
    database: Database,
) -> None:
    fill(database)
    asked, thawed = asyncio.Event(), asyncio.Event()

    class Hanging(Places):
        async def ask(self, query_ids: Sequence[str], before: datetime | None) -> ReplicasErased:
            asked.set()
            await thawed.wait()
            return await super().ask(query_ids, before)

    places = Hanging()
    calling = asyncio.create_task(places.erasure(database).forget_person("anna"))
    await asked.wait()
    calling.cancel()
    await asyncio.wait({calling})
    thawed.set()
    async with asyncio.timeout(20):
        while "anna" in left(database).lower():
            await asyncio.sleep(0.01)
    assert places.texts == {"ben one"}


async def test_trainer_that_starts_finishes_what_was_left_of_an_erasure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "ERASE_AGAIN_SECONDS", 0)
    fill(database)
    places = Places()
    places.broken = True
    with pytest.raises(StorageFailed):
        await places.erasure(database).forget_person("anna")
    with capture_logs() as lines:
        starting = asyncio.create_task(trainer.erase_again_and_again(places.erasure(database), 0))
        async with asyncio.timeout(20):
            while not lines:
                await asyncio.sleep(0.01)
            places.broken = False
            while "anna" in left(database).lower():
                await asyncio.sleep(0.01)
        starting.cancel()
    assert (places.texts, len(places.asked)) == ({"ben one"}, 1)


async def test_what_is_older_than_it_may_be_kept_is_gone_and_does_not_come_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "ROWS_AT_ONCE", 2)
    places, store, now = Places(), FeedbackStore(database), datetime.now(UTC)
    old, new = (now - timedelta(days=40)).isoformat(), now.isoformat()
    said = ["anna one", "ben one", "anna two", "ben one"]
    store.add([Feedback(said_text, ("a",), source="import" if n else "feedback") for n, said_text in enumerate(said)])
    with database.write() as connection:
        long_ago = func.now_micros() - 40 * 24 * 60 * 60 * 1_000_000
        connection.execute(update(feedback).where(feedback.c.position <= 3).values(at=long_ago))
    keep(database, *(make_record(f"q{n}", f"doubt {n}", stage="keyword", at=old if n < 3 else new) for n in range(5)))
    erased = await places.erasure(database).forget_older_than(30)
    expected = Erased(feedback=1, imports=2, queries=3, review_items=3, snapshots=2, spooled=1, replicas_pending=1)
    assert expected == erased
    # Somebody has said "ben one" since, so it may stay where it is.
    assert {"Anna two!", "ben one"} == places.texts
    assert [example.text for example in store.export()] == ["ben one"]
    late = [make_record("q0", "again", at=old), make_record("q9", "again", at=old), make_record("q10", "new", at=new)]
    assert QueryStore(database).keep("another", 3, late) == 1
    (_, before), _ = places.asked[0], await places.erasure(database).forget_older_than(90)
    assert before is not None
    assert abs(before - (now - timedelta(days=30))) < timedelta(minutes=1)
    assert QueryStore(database).keep("another", 4, [make_record("q11", "kept longer now", at=old)]) == 1


async def test_query_that_arrives_after_it_was_erased_is_not_stored(database: Database) -> None:
    FeedbackStore(database).add([Feedback("anna one", ("a",), "late", "anna")])
    await Places().erasure(database).forget_person("anna")
    keep(database, make_record("late", "anna one"), make_record("q9", "other"))
    assert [query.query_id for query in QueryStore(database).recent(9)] == ["q9"]
    assert QueryStore(database).position_of(SPOOL) == 2


async def test_query_with_an_erased_text_that_was_answered_before_and_arrives_later_is_erased_on_the_replica_too(
    database: Database,
) -> None:
    FeedbackStore(database).add([Feedback("anna one", ("a",), user_id="anna")])
    log, (before, after) = Erasures(database), ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    await Places().erasure(database).forget_person("anna")
    last = log.last()
    keep(database, make_record("q1", "Anna one!", at=before), make_record("q2", "ben one", at=before))
    keep(database, make_record("q3", "anna one", at=after))
    assert [query.query_id for query in QueryStore(database).recent(9)] == ["q2", "q3"]
    assert [erasure.query_ids for erasure in log.erasures_after(last)] == [("q1",)]


async def test_query_with_the_text_of_a_statement_that_was_too_old_is_kept(database: Database) -> None:
    FeedbackStore(database).add([Feedback("soup", ("a",))])
    with database.write() as connection:
        connection.execute(update(feedback).values(at=1))
    assert (await Places().erasure(database).forget_older_than(1)).feedback == 1
    now = datetime.now(UTC) - timedelta(seconds=9)
    keep(database, make_record("q1", "soup", at=now.isoformat()))
    assert QueryStore(database).text_of("q1") == "soup"


async def test_run_that_goes_on_learns_what_was_erased_meanwhile(database: Database) -> None:
    fill(database)
    before = RunFeedback(database)
    assert set() == before.erased_text_keys()
    await Places().erasure(database).forget_person("anna")
    assert {text_key(said) for said in ("anna one", "anna two", "somewhere")} == before.erased_text_keys()
    later = RunFeedback(database)
    assert set() == later.erased_text_keys()
    await Places().erasure(database).forget_person("ben")
    assert {text_key("ben one")} == later.erased_text_keys()


async def test_run_that_goes_on_brings_no_erased_text_back_into_the_review_queue(database: Database) -> None:
    fill(database)
    run = RunFeedback(database)
    suspects = [ReviewItem(example.text, Reason.DISAGREEING, 1.0) for example in run.newest_first()]
    await Places().erasure(database).forget_person("anna")
    replace_suspects(database, suspects, run.erased_until)
    assert "anna" not in left(database).lower()
    assert {item.text for item in ReviewQueue(database, set).items({Reason.DISAGREEING}, 9)[0]} == {"ben one"}


async def test_replica_that_was_away_is_told_later_what_to_delete(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "MOST_IDS", 2)
    log, places = Erasures(database), Places()
    store = FeedbackStore(database)
    store.add([Feedback(f"text {n}", ("a",), f"q{n}", "anna" if n < 3 else "ben") for n in range(4)])
    await places.erasure(database).forget_person("anna")
    await places.erasure(database).forget_person("ben")
    await places.erasure(database).forget_older_than(30)
    await places.erasure(database).forget_older_than(20)
    old, *named = log.erasures_after(log.erased_by("away") or 0)
    assert named == [ErasedQueries(("q0", "q1")), ErasedQueries(("q2", "q3"))]
    assert (old.query_ids, old.before > 0) == ((), True)
    log.mark_erased("away", 2)
    assert [old] == list(log.erasures_after(log.erased_by("away") or 0))
    log.mark_erased("away", log.last())
    log.mark_erased("away", 1)
    assert (
        log.erased_by("away"), list(log.erasures_after(4)), QueryStore(database).position_of("away")
    ) == (4, [], 0)  # fmt: skip


def embed(folder: Path, *texts: str) -> None:
    """Write a file with an embedding of each text."""
    vectors = np.ones((len(texts), 2), dtype=np.float16)
    write_vectors(folder / "encoder.vectors", to_keys(map(digest_of, texts)), 2, lambda places: vectors[places])


def embedded(folder: Path, *texts: str) -> list[str]:
    """Return those of some texts whose embeddings are there."""
    rows = open_vectors(folder / "encoder.vectors").find(to_keys(map(digest_of, texts)))
    return [text for text, row in zip(texts, rows.tolist(), strict=True) if row >= 0]


async def test_every_trainer_deletes_from_its_own_embeddings_what_any_of_them_erases(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "ERASURES_AT_ONCE", 1)
    fill(database)
    texts = ("anna one", "Anna two!", "ben one", "nobody")
    folders = [tmp_path / name for name in ("here", "there", "away")]
    for folder in folders:
        embed(folder, *texts)
    here, there, away = (EmbeddingErasure(Erasures(database), folder) for folder in folders)
    erasure = Erasure(database, lambda _texts: 0, here.catch_up)
    assert (await erasure.forget_person("anna")).embeddings == 2
    assert [there.catch_up(), there.catch_up()] == [2, 0]
    assert (await erasure.forget_person("ben")).embeddings == 1
    assert [away.catch_up(), there.catch_up()] == [3, 1]
    assert [embedded(folder, *texts) for folder in folders] == [["nobody"]] * 3


async def test_embeddings_that_were_erased_under_a_newer_database_are_looked_through_again(
    database: Database, tmp_path: Path
) -> None:
    """A restored backup has given positions away that come again."""
    fill(database)
    embed(tmp_path, "anna one", "nobody")
    (tmp_path / "erased").write_text("7")
    subject = EmbeddingErasure(Erasures(database), tmp_path)
    await Places().erasure(database).forget_person("anna")
    assert [subject.catch_up(), embedded(tmp_path, "anna one", "nobody")] == [1, ["nobody"]]
    assert EmbeddingErasure(Erasures(database), tmp_path / "nowhere").catch_up() == 0


async def test_embeddings_that_a_run_writes_are_clean_up_to_its_beginning_only(
    database: Database, tmp_path: Path
) -> None:
    fill(database)
    run, subject = RunFeedback(database), EmbeddingErasure(Erasures(database), tmp_path)
    embed(tmp_path, "nobody")
    await Places().erasure(database).forget_person("anna")
    assert subject.catch_up() == 0
    # The run read "anna one" before it was erased, and dies before it can look again.
    mark_clean(tmp_path, run.erased_until)
    embed(tmp_path, "anna one", "nobody")
    assert [subject.catch_up(), embedded(tmp_path, "anna one", "nobody")] == [1, ["nobody"]]


async def test_trainer_follows_the_erasures_of_others_and_says_once_that_it_cannot(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure_module, "FOLLOW_SECONDS", 0.0)
    calls, over = list[str](), asyncio.Event()

    def catch_up() -> int:
        calls.append("call")
        if len(calls) < 4:
            raise StorageFailed("away")
        loop.call_soon_threadsafe(over.set)
        return 0

    loop = asyncio.get_running_loop()
    with capture_logs() as logs:
        following = asyncio.create_task(Erasure(database, lambda _texts: 0, catch_up).follow())
        await over.wait()
        following.cancel()
    assert [line["problem"] for line in logs] == ["away"]


async def test_person_is_forgotten_wholly_or_not_at_all(database: Database) -> None:
    store, before = fill(database), left(database)
    with database.write() as connection:
        connection.execute(text("ALTER TABLE unfinished_erasures RENAME TO elsewhere"))
    with pytest.raises(StorageFailed):
        await Places().erasure(database).forget_person("anna")
    with database.write() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO unfinished_erasures"))
        assert tuple(connection.scalar(select(func.count()).select_from(table)) for table in (queries, feedback)) == (
            5,
            5,
        )
        assert connection.scalar(select(func.count()).select_from(review_items))
    assert (before, 5) == (left(database), len(list(store.export())))
    assert len(read_feedback(database)) == 5
