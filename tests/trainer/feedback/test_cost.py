"""What it costs to look something up: no statement reads a whole table, so the number of rows makes no difference."""

from typing import Any

import pytest
from sqlalchemy import event

from services.trainer.database.database import Database
from services.trainer.dataset.words import text_key
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
async def test_no_statement_reads_or_sorts_a_whole_table(sqlite_url: str) -> None:
    database, plans = Database(sqlite_url), list[str]()

    @event.listens_for(database._engine, "before_cursor_execute")
    def explain(_: Any, cursor: Any, statement: str, parameters: Any, __: Any, executemany: bool) -> None:
        if statement.startswith(("SELECT", "DELETE", "UPDATE")) and not executemany:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(f"{row[3]} FOR {statement}" for row in cursor.fetchall())

    use_everything(database)
    erasure = Erasure(database, lambda _texts: 0)
    await erasure.forget_person("anna")
    await erasure.forget_older_than(30)
    database.close()
    assert len(plans) > 50
    assert [plan for plan in plans if is_costly(plan)] == []


def is_costly(plan: str) -> bool:
    """Say whether a step of a plan reads all rows, or sorts rows that it has not found by an index."""
    words = plan.split()
    if words[0] == "SCAN":
        table = words[2] if words[1] == "TABLE" else words[1]
        return table not in BOUNDED and "LIMIT" not in plan
    return plan.startswith("USE TEMP B-TREE FOR ORDER BY") and "AS newest" not in plan
