"""What it costs to look something up: no statement reads a whole table, so the number of rows makes no difference."""

from collections.abc import Callable
from contextlib import closing
from itertools import count
from typing import Any

import pytest
from sqlalchemy import event

from services.trainer.database.database import Database
from services.trainer.dataset.words import text_key
from services.trainer.feedback import store as module
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import ReviewQueue, replace_suspects
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.query_records import SPOOL, make_record

# Tables with a bounded number of rows.
BOUNDED = {"review_items", "newest", "texts", "asked", "CONSTANT"}


def use_everything(database: Database) -> None:
    store, queries, queue = FeedbackStore(database), QueryStore(database), ReviewQueue(database, lambda: {"soup"})
    queries.keep(SPOOL, 2, [make_record("q1", stage="keyword", experiment_id="e1"), make_record("q2", "other words")])
    store.add([Feedback("some cake", ("a",), "q1", "anna", request_id="x")])
    for look in (store.watermark, store.newest, lambda: list(store.export()), lambda: list(store.newest_first()),
                 lambda: store.count_new_texts(0), lambda: store.labels_in_experiment("e1", 9),
                 lambda: queries.text_of("q1"), lambda: queries.recent(9), lambda: queries.of_experiment("e1", 9),
                 lambda: queries.first_of(1, 1, 9), lambda: queries.newest_of(1, 9, 1),
                 lambda: queue.items(set(), 9)):  # fmt: skip
        look()
    replace_suspects(database, [ReviewItem("odd", Reason.SUSPECTED_NOISE, 0.9)])
    queue.decide(text_key("some soup"), ["a"], "anna")


@pytest.mark.anyio
async def test_no_statement_reads_or_sorts_a_whole_table(database: Database) -> None:
    plans = list[str]()

    @event.listens_for(database._engine, "before_cursor_execute")
    def explain(_: Any, cursor: Any, statement: str, parameters: Any, __: Any, executemany: bool) -> None:
        if statement.startswith(("SELECT", "DELETE", "UPDATE", "WITH")) and not executemany:
            if not database.is_embedded:
                # With few rows, PostgreSQL would rather read them all.
                cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if database.is_embedded else ''}{statement}", parameters)
            plans.extend(f"{row[-1].strip()} FOR {statement}" for row in cursor.fetchall())

    use_everything(database)
    erasure = Erasure(database, lambda _texts: 0)
    await erasure.forget_person("anna")
    await erasure.forget_older_than(30)
    assert len(plans) > 50
    assert [plan for plan in plans if is_costly(plan)] == []


def is_costly(plan: str) -> bool:
    """Say whether a step of a plan reads all rows, or sorts rows that it has not found by an index."""
    words = plan.removeprefix("->  ").split()
    if words[:3] == ["Seq", "Scan", "on"]:
        return words[3] not in BOUNDED
    if words[0] == "SCAN":
        table = words[2] if words[1] == "TABLE" else words[1]
        return table not in BOUNDED and "LIMIT" not in plan
    return plan.startswith("USE TEMP B-TREE FOR ORDER BY") and "AS newest" not in plan


@pytest.mark.parametrize("rows", [10, 6000])
def test_import_takes_few_statements(database: Database, rows: int) -> None:
    statements = list[str]()
    event.listen(database._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    FeedbackStore(database).add([Feedback(f"some cake {number}", ("a",)) for number in range(rows)])
    assert len(statements) <= 10


def test_rows_of_an_import_are_made_before_the_lock_is_taken(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = list[int]()

    def look(text: str) -> str:
        in_use.append(database._engine.pool.checkedout())  # type: ignore[attr-defined]
        return text_key(text)

    monkeypatch.setattr(module, "text_key", look)
    FeedbackStore(database).add([Feedback("some cake", ("a",)), Feedback("more cake", ("a",))])
    assert in_use == [0, 0]


def test_text_that_very_many_people_spoke_of_costs_no_more_than_another(sqlite_url: str) -> None:
    with closing(Database(sqlite_url)) as database:
        store, queries, said = FeedbackStore(database), QueryStore(database), Feedback("some cake", ("a",))
        store.add([said])
        once = count_steps(database, lambda: queries.keep("1", 1, [make_record("q1", said.text, stage="keyword")]))
        store.add([said] * 2000)
        often = count_steps(database, lambda: queries.keep("2", 1, [make_record("q2", said.text, stage="keyword")]))
    assert often < 1.2 * once


def count_steps(database: Database, call: Callable[[], object]) -> int:
    """Return how many steps SQLite takes for a call. Each row that it reads takes some."""
    steps = count()

    def listen(connection: Any, *_: Any) -> None:
        connection.set_progress_handler(lambda: next(steps) < 0, 1)

    event.listen(database._engine, "checkout", listen)
    call()
    event.remove(database._engine, "checkout", listen)
    return next(steps)
