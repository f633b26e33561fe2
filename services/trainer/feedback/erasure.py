"""Deletes what people said: everything that one person said, or everything older than the retention time.

The database is first, in one transaction for a person, and in many small ones for what is too old. From then on no
record, no run and no replica can bring it back: `erasures.py` says why. Then the replicas follow with their query logs
and spools, and at last the files: snapshots, which all trainers share, and the embeddings of this trainer. The
other trainers delete from theirs within seconds (`follow`). Whatever fails half-way, the next call does the rest. A
model that has already learned from the texts serves until the next run replaces it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from services.trainer.database.database import Database, database_time
from services.trainer.errors import StorageFailed
from services.trainer.feedback.deletion import Deleted, delete_batch_before, delete_person, delete_queries_before
from services.trainer.feedback.erasures import ErasedQueries, Erasures, record_age_limit

MICROS_OF_A_DAY = 24 * 60 * 60 * 1_000_000
FOLLOW_SECONDS = 2.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class ReplicasErased:
    """What the replicas deleted: lines of query logs, records of spools; and how many replicas still have to."""

    log_lines: int = 0
    spooled: int = 0
    pending: int = 0


# Deletes queries on the replicas: those with some ids, and those answered before a time, if there is one.
EraseOnReplicas = Callable[[Sequence[str], datetime | None], Awaitable[ReplicasErased]]


@dataclass(frozen=True)
class Erased:
    """Numbers of what was deleted, by where it was. `replicas_pending` replicas were away; they will catch up."""

    feedback: int = 0
    imports: int = 0
    queries: int = 0
    review_items: int = 0
    snapshots: int = 0
    embeddings: int = 0
    log_lines: int = 0
    spooled: int = 0
    replicas_pending: int = 0


async def _no_replicas(_query_ids: Sequence[str], _before: datetime | None) -> ReplicasErased:
    return ReplicasErased()


class Erasure:
    """Deletes from the database, from files and from replicas. Use it on the event loop; it blocks in threads only.

    Args:
        database: where feedback, queries and review items are.
        delete_snapshots: deletes the snapshots with one of some texts and returns how many there were.
        delete_embeddings: deletes the embeddings of all texts that were erased, by whichever trainer, and returns how
            many were still on this machine.
        erase_on_replicas: see EraseOnReplicas.

    """

    def __init__(
        self,
        database: Database,
        delete_snapshots: Callable[[Collection[str]], int],
        delete_embeddings: Callable[[], int] = lambda: 0,
        erase_on_replicas: EraseOnReplicas = _no_replicas,
    ) -> None:
        self._database = database
        self._erasures = Erasures(database)
        self._delete_snapshots = delete_snapshots
        self._delete_embeddings = delete_embeddings
        self._erase_on_replicas = erase_on_replicas
        # While an erasure goes on here, it deletes and counts the embeddings itself.
        self._going_on = 0

    async def forget_person(self, user_id: str) -> Erased:
        """Delete what a person said. When the caller gives up, it goes on: what is begun must reach every place.

        Raises:
            StorageFailed: nothing was deleted, or only the files are left; call it again.

        """
        return await asyncio.shield(self._forget(partial(self._delete_person, user_id)))

    async def forget_older_than(self, days: int) -> Erased:
        """Delete what is older than so many days. Raises StorageFailed when only a part was deleted; call it again."""
        erased = await self._forget(partial(self._delete_older_than, days))
        if erased != Erased(replicas_pending=erased.replicas_pending):
            _log.info("deleted what is older than it may be kept", days=days, feedback=erased.feedback)
        return erased

    async def finish(self) -> None:
        """Delete the files that earlier calls have left, of this trainer or of another one. Raises StorageFailed."""
        await asyncio.to_thread(self._clean_files)

    async def follow(self) -> None:
        """Delete from this machine what other trainers erase or have erased, until this task is cancelled."""
        problem = ""
        while True:
            try:
                if not self._going_on:
                    await asyncio.to_thread(self._delete_embeddings)
                problem = ""
            except StorageFailed as error:
                if not problem:
                    _log.warning("cannot delete what another trainer erased", problem=str(error))
                problem = str(error)
            except Exception as error:
                _log.error("cannot delete what another trainer erased", exc_info=error)
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _forget(self, delete: Callable[[], Deleted]) -> Erased:
        self._going_on += 1
        try:
            begin = await asyncio.to_thread(self._erasures.last)
            return await self._finish(await asyncio.to_thread(delete), begin)
        finally:
            self._going_on -= 1

    async def _finish(self, deleted: Deleted, begin: int) -> Erased:
        there = await self._ask_replicas(await asyncio.to_thread(lambda: list(self._erasures.erasures_after(begin))))
        snapshots, embeddings = await asyncio.to_thread(self._clean_files)
        return Erased(
            deleted.feedback,
            deleted.imports,
            deleted.queries,
            deleted.review_items,
            snapshots,
            embeddings,
            there.log_lines,
            there.spooled,
            there.pending,
        )

    async def _ask_replicas(self, erasures: Sequence[ErasedQueries]) -> ReplicasErased:
        total = ReplicasErased()
        for erased in erasures:
            limit = datetime.fromtimestamp(erased.before / 1e6, UTC) if erased.before else None
            there = await self._erase_on_replicas(erased.query_ids, limit)
            total = ReplicasErased(
                total.log_lines + there.log_lines, total.spooled + there.spooled, max(total.pending, there.pending)
            )
        return total

    def _delete_person(self, user_id: str) -> Deleted:
        with self._database.write() as connection:
            return delete_person(connection, user_id)

    def _delete_older_than(self, days: int) -> Deleted:
        with self._database.write() as connection:
            before = max(1, database_time(connection) - days * MICROS_OF_A_DAY)
            record_age_limit(connection, before)
        total = Deleted()
        for delete_batch in (delete_batch_before, delete_queries_before):
            while True:
                with self._database.write() as connection:
                    deleted = delete_batch(connection, before)
                if deleted == Deleted():
                    break
                total += deleted
        return total

    def _clean_files(self) -> tuple[int, int]:
        """Delete the snapshots and embeddings that this or an earlier call has to; return how many there were."""
        snapshots = sum(self._delete_snapshots(texts) for texts in self._erasures.unfinished())
        embeddings = self._delete_embeddings()
        self._database.empty_log()
        return snapshots, embeddings
