"""The review queue: the items that wait for a person, and the texts that were decided.

An item is queued when its query is stored, or when a training run doubts an example. It is gone when a person has
decided it; one from a query also when anybody has given feedback on its text.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select

from services.trainer.database.database import (
    ROWS_AT_ONCE,
    Database,
    database_time,
    in_parts,
    insert_many,
    lock_counters,
)
from services.trainer.database.tables import FEEDBACK, review_decisions, review_items
from services.trainer.dataset.examples import REVIEW
from services.trainer.errors import ReviewItemNotFound
from services.trainer.feedback.answered_query import AnsweredQuery
from services.trainer.feedback.erasures import read_erased_keys
from services.trainer.feedback.review import (
    MOST_COMPARED,
    UNFAMILIAR_WORDS,
    Reason,
    ReviewItem,
    choose,
    find_reasons,
    keep_strongest,
    measure_unfamiliarity,
)
from services.trainer.feedback.store import FROM_QUERY, FROM_TRAINING, Feedback, find_labelled, store_feedback

# So many items wait at most. Those of the oldest queries go first.
MOST_WAITING = 20_000
# A training run may suspect so many examples at most; those that it is surest of stay.
MOST_SUSPECTS = 5000
_ID_CHARS = 32


class ReviewQueue:
    """Lists and decides review items. Its methods block and raise StorageFailed.

    Args:
        database: where the items are.
        known_words: returns the words that the champion learned.

    """

    def __init__(self, database: Database, known_words: Callable[[], Collection[str]]) -> None:
        self._database = database
        self._known_words = known_words

    def items(self, reasons: Collection[Reason], count: int) -> tuple[list[ReviewItem], int]:
        """Return the most useful items, best first, and the number of all texts that wait.

        Args:
            reasons: only items with these reasons count; all do when it is empty.
            count: how many items to return at most.

        """
        asked = sorted(reason.value for reason in reasons or Reason)
        known_words = self._known_words()
        candidates = self._read_best(asked)
        # The champion may have learned the words since the query was stored.
        while known_words and (familiar := [item for item in candidates if _is_familiar(item, known_words)]):
            self._drop(familiar)
            candidates = self._read_best(asked)
        # PostgreSQL sorts to count distinct values, but not to group them.
        texts = select(review_items.c.item_id).where(review_items.c.reason.in_(asked)).group_by(review_items.c.item_id)
        with self._database.read() as connection:
            waiting = connection.scalar(select(func.count()).select_from(texts.subquery("texts")))
        return choose(candidates, count), waiting or 0

    def item(self, item_id: str) -> ReviewItem:
        """Return one item by its id. Raises ReviewItemNotFound when there is none, or when it was already decided."""
        with self._database.read() as connection:
            return _find_item(connection, item_id)

    def decide(self, item_id: str, labels: Sequence[str] | None, user_id: str) -> str:
        """Decide an item and store the labels as feedback, both or neither.

        Args:
            item_id: the item.
            labels: what the text means; empty when no label fits, None to dismiss the item and learn nothing.
            user_id: who decides.

        Returns:
            The id of the feedback; empty when the item was dismissed.

        Raises:
            ReviewItemNotFound: there is no such item, or it was already decided.
            StorageFailed: the item is still open.

        """
        with self._database.write() as connection:
            lock_counters(connection, FEEDBACK)
            item = _find_item(connection, item_id)
            ids = [""]
            if labels is not None:
                ids = store_feedback(connection, [Feedback(item.text, tuple(labels), item.query_id, user_id, REVIEW)])
            connection.execute(delete(review_items).where(review_items.c.item_id == item_id))
            connection.execute(review_decisions.insert().values(item_id=item_id, at=database_time(connection)))
        return ids[0]

    def _read_best(self, reasons: Iterable[int]) -> list[ReviewItem]:
        """Return the items with the highest scores, up to MOST_COMPARED for each reason."""
        found: list[ReviewItem] = []
        with self._database.read() as connection:
            for reason in reasons:
                best = select(review_items).where(review_items.c.reason == reason)
                rows = connection.execute(best.order_by(review_items.c.score.desc()).limit(MOST_COMPARED))
                found.extend(map(_read_row, rows))
        return found

    def _drop(self, items: Sequence[ReviewItem]) -> None:
        with self._database.write() as connection:
            lock_counters(connection, FEEDBACK)
            for part in in_parts([item.item_id for item in items]):
                connection.execute(
                    delete(review_items).where(
                        review_items.c.item_id.in_(part), review_items.c.reason == Reason.UNFAMILIAR.value
                    )
                )


def queue_up(connection: Connection, answered: Sequence[AnsweredQuery], known_words: Collection[str]) -> None:
    """Queue queries for review, in the transaction that stores them. It has locked the counter FEEDBACK.

    Texts that people have labelled or decided are not queued. An item that waits already stays as it is, unless the new
    one has a better score.
    """
    found: dict[tuple[str, int], tuple[ReviewItem, int]] = {}
    for query in answered:
        for item in find_reasons(query, known_words):
            key = item.item_id, item.reason.value
            if key not in found or item.score > found[key][0].score:
                found[key] = item, round(query.at * 1e6)
    if not found:
        return
    settled = _find_settled(connection, {key for key, _ in found})
    rows = [_row(item, FROM_QUERY, at) for (key, _), (item, at) in found.items() if key not in settled]
    _replace_weaker(connection, rows)
    _evict(connection)


def replace_suspects(database: Database, suspects: Iterable[ReviewItem], since: int | None = None) -> None:
    """Replace the suspects of the run before. Those that were decided do not come back.

    Args:
        database: where the suspects are.
        suspects: what a run doubts.
        since: position of the last erasure when the run began: what was erased after it does not come back. None for a
            run that read nothing of what people said.

    Raises:
        StorageFailed: the former ones are still there.

    """
    with database.write() as connection:
        lock_counters(connection, FEEDBACK)
        connection.execute(delete(review_items).where(review_items.c.origin == FROM_TRAINING))
        erased = read_erased_keys(connection, since) if since is not None else ()
        queue_suspects(connection, (item for item in suspects if item.item_id not in erased))


def queue_suspects(connection: Connection, suspects: Iterable[ReviewItem]) -> int:
    """Queue suspects that were not decided, and return how many. The transaction has locked the counter FEEDBACK."""
    strongest = sorted(keep_strongest(suspects), key=lambda item: -item.score)[:MOST_SUSPECTS]
    decided, now = _find_decided(connection, [item.item_id for item in strongest]), database_time(connection)
    rows = [_row(item, FROM_TRAINING, now) for item in strongest if item.item_id not in decided]
    for part in in_parts(rows):
        _delete_rows(connection, part)
        insert_many(connection, review_items, part)
    _evict(connection)
    return len(rows)


def _replace_weaker(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    for part in in_parts(rows):
        waiting = connection.execute(
            select(review_items.c.item_id, review_items.c.reason, review_items.c.score).where(
                review_items.c.item_id.in_({row["item_id"] for row in part})
            )
        )
        known = {(row.item_id, row.reason): row for row in waiting}
        fresh = [
            row
            for row in part
            if (other := known.get((row["item_id"], row["reason"]))) is None or other.score < row["score"]
        ]
        if fresh:
            _delete_rows(connection, fresh)
            insert_many(connection, review_items, fresh)


def _delete_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    for reason in {row["reason"] for row in rows}:
        ids = [row["item_id"] for row in rows if row["reason"] == reason]
        connection.execute(delete(review_items).where(review_items.c.item_id.in_(ids), review_items.c.reason == reason))


def _evict(connection: Connection) -> None:
    """Delete the oldest queries' items until at most MOST_WAITING wait."""
    surplus = (connection.scalar(select(func.count()).select_from(review_items)) or 0) - MOST_WAITING
    while surplus > 0:
        oldest = select(review_items.c.item_id).where(review_items.c.origin == FROM_QUERY)
        ids = connection.scalars(oldest.order_by(review_items.c.at).limit(min(surplus, ROWS_AT_ONCE))).all()
        if not ids:
            return
        doomed = delete(review_items).where(review_items.c.item_id.in_(ids), review_items.c.origin == FROM_QUERY)
        surplus -= connection.execute(doomed).rowcount


def _find_settled(connection: Connection, keys: Collection[str]) -> set[str]:
    return _find_decided(connection, keys) | find_labelled(connection, keys)


def _find_decided(connection: Connection, keys: Collection[str]) -> set[str]:
    decided: set[str] = set()
    for part in in_parts(list(keys)):
        decided.update(
            connection.scalars(select(review_decisions.c.item_id).where(review_decisions.c.item_id.in_(part)))
        )
    return decided


def _find_item(connection: Connection, item_id: str) -> ReviewItem:
    usable = len(item_id) <= _ID_CHARS and "\0" not in item_id
    rows = connection.execute(select(review_items).where(review_items.c.item_id == item_id)).all() if usable else ()
    if not rows:
        raise ReviewItemNotFound(item_id)
    return keep_strongest(map(_read_row, rows))[0]


def _is_familiar(item: ReviewItem, known_words: Collection[str]) -> bool:
    return item.reason is Reason.UNFAMILIAR and measure_unfamiliarity(item.text, known_words) < UNFAMILIAR_WORDS


def _row(item: ReviewItem, origin: str, at: int) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "reason": item.reason.value,
        "origin": origin,
        "score": item.score,
        "at": at,
        "text": item.text,
        "believed": item.believed,
        "confidence": item.confidence,
        "labels": list(item.labels),
        "query_id": item.query_id,
    }


def _read_row(row: Any) -> ReviewItem:
    return ReviewItem(
        row.text, Reason(row.reason), row.score, row.believed, row.confidence, tuple(row.labels), row.query_id
    )
