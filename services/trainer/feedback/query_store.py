"""Keeps the newest answered queries, as the replicas sent them, and looks them up.

Whatever a replica sends twice is stored once: a spool has a position up to which it was stored, and a query has an id.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from moodfood.events.v1.events_pb2 import QueryRecord
from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from services.trainer.database.database import (
    Database,
    database_time,
    in_parts,
    insert_many,
    lock_counters,
    next_positions,
)
from services.trainer.database.tables import (
    EMPTY,
    ERASURES,
    FEEDBACK,
    QUERIES,
    erased_queries,
    erasures,
    queries,
    spools,
)
from services.trainer.dataset.words import text_key
from services.trainer.feedback.answered_query import AnsweredQuery, ShadowAnswer, is_id, read_record
from services.trainer.feedback.erasures import find_erased_texts, record_erased
from services.trainer.feedback.review_queue import queue_up

KEEP_QUERIES = 1_000_000
# More than arrive at once are deleted at once, so the number of kept queries comes down step by step.
MOST_PRUNED = 2000


def _know_nothing() -> Collection[str]:
    return ()


class QueryStore:
    """Keeps and finds queries. Its methods block and raise StorageFailed.

    Args:
        database: where they are kept.
        known_words: returns the words that the champion learned; queries without them are queued for review.
        keep: how many queries are kept; the oldest ones go.

    """

    def __init__(
        self, database: Database, known_words: Callable[[], Collection[str]] = _know_nothing, keep: int = KEEP_QUERIES
    ) -> None:
        self._database = database
        self._known_words = known_words
        self._keep = keep

    def position_of(self, spool_id: str) -> int:
        """Return the position up to which the records of a spool are stored; 0 for a new spool."""
        with self._database.read() as connection:
            return connection.scalar(select(spools.c.position).where(spools.c.spool_id == spool_id)) or 0

    def keep(self, spool_id: str, position: int, records: Sequence[QueryRecord]) -> int:
        """Store the records of a spool that are not stored yet, with their review items, and return how many.

        Records that an erasure covers are not stored.

        Args:
            spool_id: the spool.
            position: position of the last record; the others precede it without a gap.
            records: in the order of their positions.

        Raises:
            StorageFailed: nothing was stored.

        """
        # Before the lock is taken, because other writers wait for it.
        known_words, read = self._known_words(), [read_record(record) for record in records]
        with self._database.write() as connection:
            lock_counters(connection, FEEDBACK, QUERIES)
            stored = connection.scalar(select(spools.c.position).where(spools.c.spool_id == spool_id))
            _advance(connection, spool_id, stored, position)
            skipped = max(0, (stored or 0) - (position - len(records)))
            answered = _select_new(connection, read[skipped:])
            positions = next_positions(connection, QUERIES, len(answered))
            insert_many(
                connection, queries, [_row(number, query) for number, query in zip(positions, answered, strict=True)]
            )
            queue_up(connection, answered, known_words)
            if answered:
                _prune(connection, positions[-1] - self._keep)
        return len(answered)

    def keep_older(self, records: Sequence[QueryRecord], room: int, *, for_review: bool) -> int:
        """Store records that are older than all that are stored, and return how many. Those that are known are not.

        Args:
            records: oldest first.
            room: how many still older records may follow, with these. So many positions are left free when the store is
                empty; otherwise, positions may fall below 1.
            for_review: whether to queue their review items.

        Raises:
            StorageFailed: nothing was stored.

        """
        known_words = self._known_words() if for_review else ()
        with self._database.write() as connection:
            lock_counters(connection, FEEDBACK, QUERIES)
            answered = _select_new(connection, [read_record(record) for record in records])
            lowest = connection.scalar(select(func.min(queries.c.position)))
            if lowest is None and answered:
                lowest = next_positions(connection, QUERIES, room)[-1] + 1
            first = (lowest or 0) - len(answered)
            insert_many(connection, queries, [_row(number, query) for number, query in enumerate(answered, first)])
            if for_review:
                queue_up(connection, answered, known_words)
        return len(answered)

    def count(self) -> int:
        """Return how many queries are stored. It reads the whole index."""
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).select_from(queries)) or 0

    def text_of(self, query_id: str) -> str | None:
        """Return the text of a query; None when it is not stored, or not yet."""
        if not is_id(query_id):
            return None
        with self._database.read() as connection:
            return connection.scalar(select(queries.c.text).where(queries.c.query_id == query_id))

    def recent(self, count: int) -> list[AnsweredQuery]:
        """Return the newest queries, oldest first."""
        return self._read(queries.c.position.desc(), count)[::-1]

    def of_experiment(self, experiment_id: str, limit: int) -> list[AnsweredQuery]:
        """Return the newest queries of an experiment, oldest first."""
        return self._read(queries.c.position.desc(), limit, queries.c.experiment_id == experiment_id,
                          queries.c.experiment_id != EMPTY)[::-1]  # fmt: skip

    def first_of(self, version: int, since_micros: int, count: int) -> list[AnsweredQuery]:
        """Return the first queries that a version answered at a time or later, oldest first."""
        return self._read(queries.c.at.asc(), count, queries.c.version == version, queries.c.at >= since_micros)

    def newest_of(self, version: int, count: int, after_micros: int) -> list[AnsweredQuery]:
        """Return the newest queries that a version answered after a time, oldest first."""
        return self._read(queries.c.at.desc(), count, queries.c.version == version,
                          queries.c.at > after_micros)[::-1]  # fmt: skip

    def _read(self, order: ColumnElement[Any], count: int, *conditions: ColumnElement[bool]) -> list[AnsweredQuery]:
        with self._database.read() as connection:
            rows = connection.execute(select(queries).where(*conditions).order_by(order).limit(count))
            return [_read_row(row) for row in rows]


def _select_new(connection: Connection, answered: Sequence[AnsweredQuery]) -> list[AnsweredQuery]:
    """Return the queries that are neither stored nor erased, each once. One without a time gets the present time."""
    before = connection.scalar(select(func.max(erasures.c.before))) or 0
    now = database_time(connection) / 1e6
    timed = (query if query.at else replace(query, at=now) for query in answered)
    usable = {query.query_id: query for query in timed if is_id(query.query_id) and _micros(query.at) >= before}
    for part in in_parts(list(usable)):
        for column in (queries.c.query_id, erased_queries.c.query_id):
            for query_id in connection.scalars(select(column).where(column.in_(part))):
                usable.pop(query_id, None)
    late = _find_late(connection, list(usable.values()))
    if late:
        # So that the replicas delete them too.
        lock_counters(connection, ERASURES)
        record_erased(connection, late, ())
    return [query for query in usable.values() if query.query_id not in late]


def _find_late(connection: Connection, answered: Sequence[AnsweredQuery]) -> set[str]:
    """Return the ids of the queries that would have been deleted with their texts, had they arrived before."""
    oldest = min((_micros(query.at) for query in answered), default=0)
    erased = find_erased_texts(connection, oldest) if answered else {}
    return {query.query_id for query in answered if erased and _micros(query.at) <= erased.get(text_key(query.text), 0)}


def _advance(connection: Connection, spool_id: str, stored: int | None, position: int) -> None:
    now = database_time(connection)
    if stored is None:
        connection.execute(spools.insert().values(spool_id=spool_id, position=position, at=now))
    elif position > stored:
        connection.execute(update(spools).where(spools.c.spool_id == spool_id).values(position=position, at=now))


def _prune(connection: Connection, last: int) -> None:
    """Delete the oldest of the queries up to a position."""
    if last > 0:
        oldest = select(queries.c.position).where(queries.c.position <= last).order_by(queries.c.position)
        connection.execute(delete(queries).where(queries.c.position.in_(oldest.limit(MOST_PRUNED))))


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _row(position: int, query: AnsweredQuery) -> dict[str, Any]:
    shadow = query.shadow
    return {
        "position": position,
        "query_id": query.query_id,
        "at": _micros(query.at),
        "text": query.text,
        "text_key": text_key(query.text),
        "label": query.label,
        "confidence": query.confidence,
        "second": query.second,
        "stage": query.stage,
        "version": query.version,
        "micros": query.micros,
        "experiment_id": query.experiment_id,
        "arm": query.arm,
        "shadow_version": shadow.version if shadow else None,
        "shadow_label": shadow.label if shadow else None,
        "shadow_confidence": shadow.confidence if shadow else None,
        "shadow_micros": shadow.micros if shadow else None,
        "shadow_error": shadow.error if shadow else None,
    }


def _read_row(row: Any) -> AnsweredQuery:
    shadow = None
    if row.shadow_version is not None:
        shadow = ShadowAnswer(
            row.shadow_version, row.shadow_label, row.shadow_confidence, row.shadow_micros, row.shadow_error
        )
    return AnsweredQuery(
        row.query_id, row.text, row.at / 1e6, row.label, row.confidence, row.second, row.stage, row.version,
        row.micros, row.experiment_id, row.arm, shadow,
    )  # fmt: skip
