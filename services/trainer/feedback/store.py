"""Stores what people said: feedback, reviews and imported examples.

Every record gets a position, in the order of storing. Deleted records are gone, and their positions are not used again.
So "all that came after position n" means the same for ever.
"""

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, String, column, delete, distinct, exists, func, select, values

from services.trainer.database.database import (
    ROWS_AT_ONCE,
    Database,
    database_time,
    in_parts,
    insert_many,
    last_position,
    lock_counters,
    next_positions,
)
from services.trainer.database.tables import EMPTY, FEEDBACK, feedback, queries, review_items
from services.trainer.dataset.examples import FEEDBACK as FROM_FEEDBACK
from services.trainer.dataset.examples import FROM_PEOPLE, Example
from services.trainer.dataset.words import text_key
from services.trainer.errors import InvalidRequest

# Counting new texts looks at so many records at most.
MOST_COUNTED = 10_000
CHUNK = 1000
# Where a review item came from: a query, or a training run.
FROM_QUERY, FROM_TRAINING = "query", "training"


@dataclass(frozen=True)
class Feedback:
    """One statement that a query has these labels. Without labels, it says that no label fits."""

    text: str
    labels: tuple[str, ...]
    query_id: str = ""
    user_id: str = ""
    source: str = FROM_FEEDBACK
    request_id: str = ""


class FeedbackStore:
    """Adds and reads feedback. Threads and processes may share the database. Its methods block and raise StorageFailed.

    Reading costs the same whether a thousand or ten million records are stored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, items: Sequence[Feedback]) -> list[str]:
        """Store all items in one transaction, and return their ids in order. When it returns, they are on disk.

        An item whose caller (`user_id`) has used its request id before is not stored again; its id is that of the
        stored record.

        Raises:
            InvalidRequest: a caller has used a request id for something else before. No item was stored.
            StorageFailed: no item was stored.

        """
        # Made before the lock is taken, because other writers wait for it.
        rows = _make_rows(items)
        with self._database.write() as connection:
            lock_counters(connection, FEEDBACK)
            return _store(connection, items, rows)

    def watermark(self) -> int:
        """Return the position of the newest record that was ever stored; 0 before the first."""
        with self._database.read() as connection:
            return last_position(connection, FEEDBACK)

    def count_new_texts(self, seen: int) -> int:
        """Return how many different texts were labelled after the position `seen`.

        It looks at the first MOST_COUNTED records after that position. So the number is too low when there are more,
        and far above any sensible number at which retraining is due.
        """
        newer = select(feedback.c.text_key).where(feedback.c.position > seen).order_by(feedback.c.position)
        counted = newer.limit(MOST_COUNTED).subquery("newest")
        with self._database.read() as connection:
            return connection.scalar(select(func.count(distinct(counted.c.text_key)))) or 0

    def newest(self) -> datetime | None:
        """Return when the newest record was stored; None when there is none."""
        with self._database.read() as connection:
            at = connection.scalar(select(feedback.c.at).order_by(feedback.c.position.desc()).limit(1))
        return datetime.fromtimestamp(at / 1e6, UTC) if at is not None else None

    def export(self) -> Iterator[Example]:
        """Yield what was stored when the first one is asked for, oldest first. Other writers need not wait."""
        last, end = 0, self.watermark()
        while True:
            rows = self._read_chunk(feedback.c.position > last, feedback.c.position <= end, feedback.c.position.asc())
            if not rows:
                return
            yield from map(_read_example, rows)
            last = rows[-1].position

    def newest_first(self) -> Iterator[Example]:
        """Yield what was stored when the first one is asked for, newest first. The reader may stop early."""
        first = self.watermark() + 1
        while True:
            rows = self._read_chunk(feedback.c.position < first, feedback.c.position.desc())
            if not rows:
                return
            yield from map(_read_example, rows)
            first = rows[-1].position

    def labels_in_experiment(self, experiment_id: str, limit: int) -> dict[str, tuple[str, ...]]:
        """Return the labels that people gave to the newest `limit` queries of an experiment, by query id.

        Of several statements about one query the last one counts. Statements that no label fits are left out.
        """
        asked = select(queries.c.query_id).where(
            queries.c.experiment_id == experiment_id, queries.c.experiment_id != EMPTY
        )
        newest = asked.order_by(queries.c.position.desc()).limit(limit).subquery("newest")
        said = select(feedback.c.query_id, feedback.c.labels).join(newest, newest.c.query_id == feedback.c.query_id)
        said = said.where(feedback.c.query_id != EMPTY).order_by(feedback.c.position)
        with self._database.read() as connection:
            return {row.query_id: tuple(row.labels) for row in connection.execute(said) if row.labels}

    def _read_chunk(self, *conditions_and_order: Any) -> Sequence[Any]:
        *conditions, order = conditions_and_order
        columns = (feedback.c.position, feedback.c.text, feedback.c.labels, feedback.c.source)
        with self._database.read() as connection:
            return connection.execute(select(*columns).where(*conditions).order_by(order).limit(CHUNK)).all()


def store_feedback(connection: Connection, items: Sequence[Feedback]) -> list[str]:
    """Store items in a transaction that has locked the counter FEEDBACK, and return their ids in order."""
    return _store(connection, items, _make_rows(items))


def insert_rows(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of feedback. Queries with these texts need no reviewer any more."""
    insert_many(connection, feedback, rows)
    keys: Collection[str] = {row["text_key"] for row in rows}
    if len(keys) > ROWS_AT_ONCE:
        # The queue is short, so it is quicker to look which of these texts are in it.
        waiting = connection.scalars(select(review_items.c.item_id).where(review_items.c.origin == FROM_QUERY))
        keys = set(waiting).intersection(keys)
    for part in in_parts(list(keys)):
        connection.execute(
            delete(review_items).where(review_items.c.item_id.in_(part), review_items.c.origin == FROM_QUERY)
        )


def make_row(position: int, feedback_id: str, item: Feedback, at: int) -> Mapping[str, Any]:
    """Return the row of an item that was stored at a time, in microseconds since 1970."""
    return {
        "position": position,
        "feedback_id": feedback_id,
        "at": at,
        "text": item.text,
        "text_key": text_key(item.text),
        "labels": list(item.labels),
        "query_id": item.query_id,
        "user_id": item.user_id,
        "source": item.source,
        "request_id": item.request_id,
    }


def find_labelled(connection: Connection, keys: Collection[str]) -> set[str]:
    """Return those of some text keys that people have said something about."""
    found: set[str] = set()
    for part in in_parts(list(keys)):
        asked = values(column("text_key", String), name="asked").data([(key,) for key in part]).cte("asked")
        # One statement about a text is enough to know, however many there are.
        is_labelled = exists().where(feedback.c.text_key == asked.c.text_key)
        found.update(connection.scalars(select(asked.c.text_key).where(is_labelled)))
    return found


def find_earlier(connection: Connection, items: Sequence[Feedback]) -> dict[tuple[str, str], str]:
    """Return the ids of the stored records of these callers' requests."""
    found: dict[tuple[str, str], str] = {}
    for part in in_parts(sorted({item.request_id for item in items if item.request_id})):
        rows = connection.execute(
            select(feedback.c.user_id, feedback.c.request_id, feedback.c.feedback_id).where(
                feedback.c.user_id.in_({item.user_id for item in items}),
                feedback.c.request_id.in_(part),
                feedback.c.request_id != EMPTY,
            )
        )
        found.update(((row.user_id, row.request_id), row.feedback_id) for row in rows)
    return found


def _make_rows(items: Sequence[Feedback]) -> list[Mapping[str, Any]]:
    """Return the rows of items that have no position and no time yet."""
    return [make_row(0, uuid.uuid4().hex, item, 0) for item in items]


def _store(connection: Connection, items: Sequence[Feedback], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    known = find_earlier(connection, items)
    _check_repeated(
        connection, {known[key]: item for item in items if (key := (item.user_id, item.request_id)) in known}
    )
    ids, fresh = list[str](), list[Mapping[str, Any]]()
    for row in rows:
        request = row["user_id"], row["request_id"]
        feedback_id = known.get(request) if row["request_id"] else None
        if feedback_id is None:
            feedback_id = known[request] = row["feedback_id"]
            fresh.append(row)
        ids.append(feedback_id)
    if fresh:
        positions, now = next_positions(connection, FEEDBACK, len(fresh)), database_time(connection)
        insert_rows(
            connection,
            [{**row, "position": position, "at": now} for position, row in zip(positions, fresh, strict=True)],
        )
    return ids


def _check_repeated(connection: Connection, repeated: Mapping[str, Feedback]) -> None:
    """Raise InvalidRequest if an item says something else than the stored record of an id: it would be lost."""
    for part in in_parts(list(repeated)):
        stored = select(feedback.c.feedback_id, feedback.c.text, feedback.c.labels)
        for row in connection.execute(stored.where(feedback.c.feedback_id.in_(part))):
            item = repeated[row.feedback_id]
            if (row.text, tuple(row.labels)) != (item.text, item.labels):
                raise InvalidRequest("request_id", "was used for other feedback before; send a new one")


def _read_example(row: Any) -> Example:
    return Example(row.text, tuple(row.labels), row.source if row.source in FROM_PEOPLE else FROM_FEEDBACK)
