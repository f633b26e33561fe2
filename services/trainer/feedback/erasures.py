"""What was erased: replicas, runs and late records have to leave it out as well.

An erasure has a position. It names the ids of the deleted queries, digests of the deleted texts, or the time before
which everything was deleted. The deleted texts themselves are kept only until no snapshot holds them any more.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, tuple_, update

from services.trainer.database.database import (
    Database,
    database_time,
    in_parts,
    last_position,
    lock_counters,
    next_positions,
)
from services.trainer.database.tables import (
    ERASURES,
    QUERIES,
    erased_queries,
    erasures,
    spools,
    unfinished_erasures,
)
from services.trainer.dataset.words import text_key

# A replica deletes so many queries in one call.
MOST_IDS = 10_000
TEXTS_AT_ONCE = 10_000
ERASURES_AT_ONCE = 100


@dataclass(frozen=True)
class ErasedQueries:
    """What a replica has to delete in one call.

    Attributes:
        query_ids: the deleted queries, MOST_IDS at most.
        before: all queries before this time are to be deleted, in microseconds since 1970; 0 for none.

    """

    query_ids: tuple[str, ...] = ()
    before: int = 0


class Erasures:
    """Reads what was erased, and remembers which replica has done the same. It blocks and raises StorageFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self) -> int:
        """Return the position of the last erasure; 0 before the first."""
        with self._database.read() as connection:
            return last_position(connection, ERASURES)

    def erasures_after(self, position: int) -> Iterator[ErasedQueries]:
        """Yield what replicas have to delete for the erasures after a position, in as few calls as possible."""
        with self._database.read() as connection:
            before = connection.scalar(select(func.max(erasures.c.before)).where(erasures.c.position > position))
        if before:
            yield ErasedQueries((), before)
        place = tuple_(erased_queries.c.erasure, erased_queries.c.query_id)
        last = (position + 1, "")
        while True:
            with self._database.read() as connection:
                rows = connection.execute(
                    select(erased_queries)
                    .where(erased_queries.c.erasure > position, place > last)
                    .order_by(erased_queries.c.erasure, erased_queries.c.query_id)
                    .limit(MOST_IDS)
                ).all()
            if not rows:
                return
            yield ErasedQueries(tuple(row.query_id for row in rows))
            last = (rows[-1].erasure, rows[-1].query_id)

    def erased_by(self, spool_id: str) -> int | None:
        """Return the position of the last erasure that the replica of a spool has carried out.

        None for a new spool, of which nothing was ever stored.
        """
        with self._database.read() as connection:
            return connection.scalar(select(spools.c.erasure).where(spools.c.spool_id == spool_id))

    def mark_erased(self, spool_id: str, position: int) -> None:
        """Remember that the replica of a spool has carried out all erasures up to a position."""
        with self._database.write() as connection:
            lock_counters(connection, QUERIES)
            done = connection.scalar(select(spools.c.erasure).where(spools.c.spool_id == spool_id))
            if done is None:
                connection.execute(
                    spools.insert().values(
                        spool_id=spool_id, position=0, at=database_time(connection), erasure=position
                    )
                )
            elif done < position:
                connection.execute(update(spools).where(spools.c.spool_id == spool_id).values(erasure=position))

    def text_keys_after(self, position: int) -> Iterator[set[str]]:
        """Yield the keys of the texts that were erased after a position, in parts. See `text_key`."""
        while True:
            with self._database.read() as connection:
                rows = connection.execute(
                    select(erasures.c.position, erasures.c.text_keys)
                    .where(erasures.c.position > position)
                    .order_by(erasures.c.position)
                    .limit(ERASURES_AT_ONCE)
                ).all()
            if not rows:
                return
            yield {key for row in rows for key in row.text_keys}
            position = rows[-1].position

    def count_unfinished(self) -> int:
        """Return how many texts the files may still hold."""
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).select_from(unfinished_erasures)) or 0

    def unfinished(self) -> Iterator[tuple[str, ...]]:
        """Yield the texts that snapshots may still hold, in parts. A part that was worked off is forgotten."""
        order = (unfinished_erasures.c.erasure, unfinished_erasures.c.number)
        while True:
            with self._database.read() as connection:
                rows = connection.execute(select(unfinished_erasures).order_by(*order).limit(TEXTS_AT_ONCE)).all()
            if not rows:
                return
            yield tuple(row.text for row in rows)
            self._finish([(row.erasure, row.number) for row in rows])

    def _finish(self, keys: Sequence[tuple[int, int]]) -> None:
        with self._database.write() as connection:
            for erasure in {erasure for erasure, _ in keys}:
                last = max(number for other, number in keys if other == erasure)
                connection.execute(
                    delete(unfinished_erasures).where(
                        unfinished_erasures.c.erasure == erasure, unfinished_erasures.c.number <= last
                    )
                )


def read_erased_keys(connection: Connection, since: int) -> set[str]:
    """Return the keys of the texts that were erased after a position."""
    found = connection.scalars(select(erasures.c.text_keys).where(erasures.c.position > since))
    return {key for text_keys in found for key in text_keys}


def find_erased_texts(connection: Connection, oldest: int) -> dict[str, int]:
    """Return the keys of the texts whose queries were deleted after a time, and the time until which they were."""
    found = select(erasures.c.queries_until, erasures.c.text_keys).where(erasures.c.queries_until > oldest)
    rows = connection.execute(found.order_by(erasures.c.queries_until))
    return {key: row.queries_until for row in rows for key in row.text_keys}


def record_erased(
    connection: Connection, query_ids: Collection[str], texts: Collection[str], queries_until: int = 0
) -> int:
    """Record deleted queries and texts in the transaction that deletes them. It has locked the counter ERASURES.

    Queries with one of the texts that were answered until a time, and arrive later, are not stored; 0 for none.
    """
    (position,) = next_positions(connection, ERASURES)
    keys = sorted({text_key(text) for text in texts})
    connection.execute(
        erasures.insert().values(position=position, queries_until=queries_until, before=0, text_keys=keys)
    )
    for part in in_parts(sorted(query_ids)):
        known = set(connection.scalars(select(erased_queries.c.query_id).where(erased_queries.c.query_id.in_(part))))
        rows = [{"query_id": query_id, "erasure": position} for query_id in part if query_id not in known]
        if rows:
            connection.execute(erased_queries.insert(), rows)
    for numbered in in_parts(list(enumerate(sorted(texts)))):
        connection.execute(
            unfinished_erasures.insert(),
            [{"erasure": position, "number": number, "text": text} for number, text in numbered],
        )
    return position


def record_age_limit(connection: Connection, before: int) -> int:
    """Record that everything before a time is deleted, instead of the earlier record of this kind."""
    lock_counters(connection, ERASURES)
    (position,) = next_positions(connection, ERASURES)
    connection.execute(delete(erasures).where(erasures.c.before > 0))
    connection.execute(erasures.insert().values(position=position, queries_until=0, before=before, text_keys=[]))
    return position
