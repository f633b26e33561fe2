"""The champion alias: the small file that names the version that serves, and the change that is being made to it.

The alias is replaced atomically and its generation only grows. Whoever moves it says which champion it expects to find;
when another one is there, nothing is moved.
"""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import ALIAS_FILE
from services.trainer.errors import ChampionChanged
from services.trainer.registry.history import History
from services.trainer.storage import locked, read_message, replace_file, storage_errors, to_json

_log = structlog.get_logger()


class Alias:
    """The files models/<model>/champion and models/<model>/pending."""

    def __init__(self, folder: Path, history: History) -> None:
        self._folder = folder
        self._path = folder / ALIAS_FILE
        self._pending_path = folder / "pending"
        self._history = history

    def read(self) -> pb.ChampionAlias | None:
        """Return the alias; if its file is damaged, what the history says; None if nothing was ever promoted."""
        alias = read_message(self._path, pb.ChampionAlias())
        return self._alias_by_history() if alias is None and self._path.exists() else alias

    def version(self) -> int:
        """Return the champion's version; 0 if there is none."""
        alias = self.read()
        return alias.version if alias else 0

    def next_generation(self) -> int:
        """Return a generation above every one that was ever used."""
        aliases = [alias for alias in (self.read(), self.pending()) if alias is not None]
        return max([self._history.highest_generation(), *(alias.generation for alias in aliases)]) + 1

    def move(
        self,
        version: int,
        generation: int,
        action: "pb.HistoryAction.ValueType",
        by: str,
        reason: str,
        *,
        expected: int,
    ) -> pb.ChampionAlias:
        """Make a version the champion in place of the expected one, and record it.

        `previous` is the version that a rollback would bring back. After a promotion it is the version just replaced;
        after a rollback, the version that this one replaced when it was promoted.

        Raises:
            ChampionChanged: another champion than the expected one is there.
            StorageFailed: the disk refused. In both cases the alias still names the old champion.

        """
        with locked(self._folder / ".lock"):
            before = self.read()
            serving = before.version if before else 0
            if serving != expected:
                raise ChampionChanged(expected, serving)
            alias = pb.ChampionAlias(
                version=version,
                generation=generation,
                previous=self._previous(version, before, action),
                by=by,
                reason=reason,
            )
            alias.promoted_at.FromDatetime(datetime.now(UTC))
            replace_file(self._path, to_json(alias).encode())
            self._history.record(_entry(alias, action, serving))
        return alias

    def pending(self) -> pb.ChampionAlias | None:
        """Return the change that was begun and not ended; None if there is none."""
        return read_message(self._pending_path, pb.ChampionAlias())

    def set_pending(self, version: int, generation: int) -> None:
        """Note that replicas are about to swap. Raises StorageFailed: nobody has swapped."""
        replace_file(self._pending_path, to_json(pb.ChampionAlias(version=version, generation=generation)).encode())

    def clear_pending(self) -> None:
        """Note that no replica is ahead of the alias."""
        with contextlib.suppress(OSError):
            self._pending_path.unlink(missing_ok=True)

    def repair(self) -> None:
        """Write a damaged alias anew, and note a promotion whose line in the history is missing.

        Raises:
            StorageFailed: the disk refused.

        """
        with storage_errors("remove what a kill left"):
            for leftover in self._folder.glob(f".{ALIAS_FILE}.*"):
                leftover.unlink(missing_ok=True)
        alias = self.read()
        if alias is None:
            return
        if read_message(self._path, pb.ChampionAlias()) is None:
            _log.error("the champion alias was damaged and is written anew", version=alias.version)
            replace_file(self._path, to_json(alias).encode())
        if alias.generation > self._history.highest_generation():
            changes = self._history.changes()
            self._history.record(_entry(alias, pb.HISTORY_ACTION_PROMOTED, changes[-1].to_version if changes else 0))

    def _previous(self, version: int, before: pb.ChampionAlias | None, action: "pb.HistoryAction.ValueType") -> int:
        if before is None:
            return 0
        if before.version == version:
            return before.previous
        return self._history.champion_before(version) if action == pb.HISTORY_ACTION_ROLLED_BACK else before.version

    def _alias_by_history(self) -> pb.ChampionAlias | None:
        changes = self._history.changes()
        if not changes:
            return None
        last = changes[-1]
        return pb.ChampionAlias(
            version=last.to_version,
            generation=last.generation,
            previous=self._history.champion_before(last.to_version),
            promoted_at=last.at,
            by=last.by,
            reason=last.reason,
        )


def _entry(alias: pb.ChampionAlias, action: "pb.HistoryAction.ValueType", from_version: int) -> pb.HistoryEntry:
    return pb.HistoryEntry(
        action=action,
        from_version=from_version,
        to_version=alias.version,
        generation=alias.generation,
        at=alias.promoted_at,
        by=alias.by,
        reason=alias.reason,
    )
