"""The champion alias: the small file in the repository that names the version that serves, and the moves of it.

Replicas follow the file. It is swapped only if nobody else has written it meanwhile, and its generation only grows. A
caller that moves it says which champion it expects (compare-and-set). When another version is the champion, the alias
does not move.

A move is a row in the database, which takes a generation that nobody had before the first replica is asked to serve
under it. The row is pending until the alias has moved; then one transaction marks it done and writes the history. What
a crash leaves pending is either completed, when the alias has its generation, or taken back.

A database that was restored from an older backup does not know the latest generations, which replicas may have
followed. Then a pending move without a version skips many generations. Nobody finishes it, so the champion is confirmed
under a higher generation, and every replica comes to it.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import ALIAS_FILE
from services.repository.errors import Changed
from services.repository.repository import Repository
from services.trainer.database.database import Database
from services.trainer.errors import ChampionChanged, StorageFailed
from services.trainer.registry.history import History
from services.trainer.registry.moves import Moves, PendingMove
from services.trainer.storage import parse_message, repository_errors, to_json

# More than are taken between a backup and its restoration.
SKIPPED_GENERATIONS = 1000

_log = structlog.get_logger()


@dataclass(frozen=True)
class Move:
    """A move of the alias that has begun.

    Attributes:
        alias: the alias afterwards.
        expected: the champion before; 0 for none.
        action: what the history records.
        tag: of the file that it replaces; None when there is no file.

    """

    alias: pb.ChampionAlias
    expected: int
    action: "pb.HistoryAction.ValueType"
    tag: str | None


@dataclass(frozen=True)
class _Found:
    """The alias, rebuilt from the history when its file is damaged, and the tag of the file; None without a file."""

    alias: pb.ChampionAlias | None
    tag: str | None
    is_damaged: bool = False


class Alias:
    """Reads and moves the champion alias of one model. Every method raises StorageFailed and blocks."""

    def __init__(self, repository: Repository, database: Database, model: str, history: History) -> None:
        self._repository = repository
        self._database = database
        self._moves = Moves(database, model)
        self._history = history

    def read(self) -> pb.ChampionAlias | None:
        """Return the alias; None when no version was ever promoted.

        When its file is damaged, the alias is rebuilt from the history.
        """
        return self._look().alias

    def version(self) -> int:
        """Return the version of the champion; 0 when there is none."""
        alias = self.read()
        return alias.version if alias else 0

    def next_generation(self, above: int = 0) -> int:
        """Return a generation that is higher than `above` and than every generation that was ever taken."""
        alias, taken = self.read(), self._moves.highest_generation()
        return max(above, taken, self._history.highest_generation(), alias.generation if alias else 0) + 1

    def begin_move(
        self,
        version: int,
        generation: int,
        action: "pb.HistoryAction.ValueType",
        by: str,
        reason: str,
        *,
        expected: int,
    ) -> Move:
        """Take a generation for a move of the alias. Call it before the first replica swaps.

        A later rollback from this version leads to the champion that it replaces now. When this move is itself a
        rollback, it leads to the champion that the version replaced when it was first promoted.

        Args:
            version: the new champion.
            generation: the new generation of the alias, from `next_generation`.
            action: what the history records.
            by, reason: who asks, and why.
            expected: the champion that the caller expects to replace; 0 for none.

        Raises:
            ChampionChanged: another version is the champion, or the alias has moved on since `next_generation`.
            PromotionInProgress: another trainer has taken this generation.
            StorageFailed: nothing has begun.

        """
        found = self._look()
        before = found.alias
        serving, followed = (before.version, before.generation) if before else (0, 0)
        if serving != expected or followed >= generation:
            raise ChampionChanged(expected, serving)
        if before is not None:
            self._complete(before)
        alias = pb.ChampionAlias(
            version=version,
            generation=generation,
            previous=self._previous(version, before, action),
            by=by,
            reason=reason,
        )
        self._moves.begin(generation, version, expected, action)
        return Move(alias, expected, action, found.tag)

    def finish_move(self, move: Move) -> pb.ChampionAlias:
        """Move the alias and record it in the history.

        When only the database refuses, the alias has moved all the same, and `repair` adds to the history later.

        Raises:
            ChampionChanged: the alias was moved by somebody else since the move began.
            StorageFailed: the repository refused.

        """
        alias = pb.ChampionAlias()
        alias.CopyFrom(move.alias)
        alias.promoted_at.FromDatetime(datetime.now(UTC))
        try:
            with repository_errors():
                self._repository.swap(ALIAS_FILE, to_json(alias).encode(), move.tag)
        except Changed as error:
            raise ChampionChanged(move.expected, self.version()) from error
        except StorageFailed:
            if not self._has_moved(alias):
                raise
        try:
            self._record(_entry(alias, move.action, move.expected))
        except StorageFailed as error:
            _log.error("the alias has moved, but the history cannot be written", problem=str(error))
        return alias

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
        """Begin and finish a move that no replica has to be asked about before. Raises what both raise."""
        return self.finish_move(self.begin_move(version, generation, action, by, reason, expected=expected))

    def pending(self) -> PendingMove | None:
        """Return the newest move that has begun and has not ended; None when there is none."""
        return self._moves.pending()

    def take_back(self, until: int) -> None:
        """Note that the pending moves up to a generation will never be finished."""
        self._moves.take_back(until)

    def skip_generations(self) -> None:
        """Begin a move far above every known generation. `Champion.recover` then confirms the champion above it."""
        self._moves.skip_to(self.next_generation() - 1 + SKIPPED_GENERATIONS)

    def is_damaged(self) -> bool:
        """Say whether the file of the alias cannot be read."""
        return self._look().is_damaged

    def is_known(self, alias: pb.ChampionAlias) -> bool:
        """Say whether the database knows the move that led to an alias."""
        return self._history.has_generation(alias.generation) or self._moves.find(alias) is not None

    def repair(self) -> None:
        """Rewrite a damaged alias, and complete a move whose end is missing in the database."""
        found = self._look()
        if found.alias is None:
            return
        if found.is_damaged:
            with repository_errors(), contextlib.suppress(Changed):
                self._repository.swap(ALIAS_FILE, to_json(found.alias).encode(), found.tag)
                _log.error("the file of the champion alias was damaged and was rewritten", version=found.alias.version)
        self._complete(found.alias)

    def _look(self) -> "_Found":
        with repository_errors():
            stored = self._repository.read(ALIAS_FILE)
        if stored is None:
            return _Found(None, None)
        alias = parse_message(stored.content, pb.ChampionAlias())
        if alias is None:
            return _Found(self._alias_by_history(), stored.tag, is_damaged=True)
        return _Found(alias, stored.tag)

    def _has_moved(self, alias: pb.ChampionAlias) -> bool:
        """Say whether the alias was swapped although the repository gave no answer."""
        try:
            return self.read() == alias
        except StorageFailed:
            return False

    def _complete(self, alias: pb.ChampionAlias) -> None:
        """Write the end of the move that led to the present alias, if the database lacks it.

        The database lacks it after a crash, when it was away, or when it was restored from an older backup.
        """
        if self._history.has_generation(alias.generation):
            return
        move = self._moves.find(alias)
        if move is not None:
            entry = _entry(alias, move.action, move.expected)
        else:
            last = self._history.last_change()
            entry = _entry(alias, pb.HISTORY_ACTION_PROMOTED, last.to_version if last else 0)
            if self.next_generation() == alias.generation + 1:
                self.skip_generations()
        _log.warning("a move of the alias was missing in the history", version=alias.version)
        self._record(entry)

    def _record(self, entry: pb.HistoryEntry) -> None:
        """Write the end of a move: its row and the history."""
        self._history.add_rules(entry)
        with self._database.write() as connection:
            self._history.add_change(connection, entry)
            self._moves.end(connection, entry.generation)

    def _previous(self, version: int, before: pb.ChampionAlias | None, action: "pb.HistoryAction.ValueType") -> int:
        if before is None:
            return 0
        if before.version == version:
            return before.previous
        return self._history.champion_before(version) if action == pb.HISTORY_ACTION_ROLLED_BACK else before.version

    def _alias_by_history(self) -> pb.ChampionAlias | None:
        last = self._history.last_change()
        if last is None:
            return None
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
