"""Deletes statements and queries from the database, and records what was deleted.

Each function is part of a transaction of its caller.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, select

from services.trainer.database.database import ROWS_AT_ONCE, database_time, in_parts, lock_counters
from services.trainer.database.tables import (
    EMPTY,
    ERASURES,
    FEEDBACK,
    QUERIES,
    feedback,
    queries,
    review_decisions,
    review_items,
)
from services.trainer.dataset.examples import IMPORT
from services.trainer.feedback.erasures import record_erased
from services.trainer.feedback.store import find_labelled


@dataclass(frozen=True)
class Deleted:
    """Numbers of deleted statements, imported examples, queries and review items."""

    feedback: int = 0
    imports: int = 0
    queries: int = 0
    review_items: int = 0

    def __add__(self, other: "Deleted") -> "Deleted":
        return Deleted(
            self.feedback + other.feedback,
            self.imports + other.imports,
            self.queries + other.queries,
            self.review_items + other.review_items,
        )


def delete_person(connection: Connection, user_id: str) -> Deleted:
    """Delete what a person said, the queries that it is about, and imported examples and queries with the same text."""
    lock_counters(connection, FEEDBACK, QUERIES, ERASURES)
    total, now = Deleted(), database_time(connection)
    while said := _read(connection, feedback, feedback.c.user_id == user_id, feedback.c.user_id != EMPTY):
        keys = sorted({row.text_key for row in said})
        of_these_texts = select(feedback).where(feedback.c.text_key.in_(keys), feedback.c.source == IMPORT)
        copies = connection.execute(of_these_texts).all()
        statements = {row.position: row for row in (*said, *copies)}.values()
        # The queries that the statements name may not have arrived yet.
        asked = {row.query_id for row in statements if row.query_id}
        asked.update(connection.scalars(select(queries.c.query_id).where(queries.c.text_key.in_(keys))))
        imports = sum(row.source == IMPORT for row in statements)
        total += Deleted(
            len(statements) - imports,
            imports,
            _delete_queries(connection, asked),
            _delete_items(connection, keys, asked),
        )
        _delete_statements(connection, [row.position for row in statements])
        record_erased(connection, asked, {row.text for row in statements}, now)
    return total


def delete_batch_before(connection: Connection, before: int) -> Deleted:
    """Delete some of the statements before a time; nothing when there are none left.

    A text counts as deleted when nobody has said it since.
    """
    lock_counters(connection, FEEDBACK, QUERIES, ERASURES)
    said = _read(connection, feedback, feedback.c.at < before)
    if not said:
        return Deleted()
    _delete_statements(connection, [row.position for row in said])
    keys = {row.text_key for row in said}
    gone = keys - find_labelled(connection, keys)
    items = _delete_items(connection, sorted(gone), ())
    record_erased(connection, (), {row.text for row in said if row.text_key in gone})
    imports = sum(row.source == IMPORT for row in said)
    return Deleted(len(said) - imports, imports, 0, items)


def delete_queries_before(connection: Connection, before: int) -> Deleted:
    """Delete some of the queries and review items before a time; nothing when there are none left."""
    lock_counters(connection, FEEDBACK, QUERIES)
    old = _read(connection, queries, queries.c.at < before)
    items = connection.scalars(
        select(review_items.c.item_id).where(review_items.c.at < before).limit(ROWS_AT_ONCE)
    ).all()
    count = 0
    if items:
        doomed = delete(review_items).where(review_items.c.item_id.in_(items), review_items.c.at < before)
        count = connection.execute(doomed).rowcount
    return Deleted(0, 0, _delete_queries(connection, [row.query_id for row in old]), count)


def _read(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> Sequence[Any]:
    return connection.execute(select(table).where(*conditions).limit(ROWS_AT_ONCE)).all()


def _delete_statements(connection: Connection, positions: Sequence[int]) -> None:
    for part in in_parts(positions):
        connection.execute(delete(feedback).where(feedback.c.position.in_(part)))


def _delete_queries(connection: Connection, query_ids: Collection[str]) -> int:
    return sum(
        connection.execute(delete(queries).where(queries.c.query_id.in_(part))).rowcount
        for part in in_parts(list(query_ids))
    )


def _delete_items(connection: Connection, keys: Sequence[str], query_ids: Collection[str]) -> int:
    """Delete the review items and the decisions of some texts, and the items of some queries."""
    count = 0
    for part in in_parts(keys):
        count += connection.execute(delete(review_items).where(review_items.c.item_id.in_(part))).rowcount
        connection.execute(delete(review_decisions).where(review_decisions.c.item_id.in_(part)))
    for part in in_parts(list(query_ids)):
        count += connection.execute(delete(review_items).where(review_items.c.query_id.in_(part))).rowcount
    return count
