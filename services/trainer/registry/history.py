"""The history of the champion: one entry for each promotion, rollback and refusal. Entries are only ever added."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, select

from services.trainer.database.database import Database, next_positions
from services.trainer.database.tables import HISTORY, history
from services.trainer.errors import ModelVersionNotFound, StorageFailed
from services.trainer.storage import parse_message, to_json

MAX_POSITION = 2**63 - 1

_log = structlog.get_logger()


class History:
    """Reads and writes the history of one model. Every method raises StorageFailed, unless it says otherwise."""

    def __init__(self, database: Database, model: str, rules_of: Callable[[int], list[pb.RuleResult]]) -> None:
        self._database = database
        self._model = model
        self._rules_of = rules_of

    def entries(self, count: int, before: int = MAX_POSITION) -> dict[int, pb.HistoryEntry]:
        """Return at most `count` entries with positions below `before`, newest first, each with its position."""
        query = select(history.c.position, history.c.record).where(self._of_model(), history.c.position < before)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(history.c.position.desc()).limit(count)).all()
        found = {row.position: parse_message(row.record, pb.HistoryEntry()) for row in rows}
        return {position: entry for position, entry in found.items() if entry is not None}

    def last_change(self) -> pb.HistoryEntry | None:
        """Return the entry that changed the champion or confirmed it last; None when there is none."""
        query = select(history.c.record).where(*self._changes()).order_by(history.c.generation.desc()).limit(1)
        return next(iter(self._read(query)), None)

    def highest_version(self) -> int:
        """Return the highest version in the history; 0 when it is empty."""
        return self._number(select(func.max(history.c.to_version)).where(self._of_model()))

    def highest_generation(self) -> int:
        """Return the highest generation in the history; 0 when it is empty."""
        return self._number(select(func.max(history.c.generation)).where(*self._changes()))

    def has_generation(self, generation: int) -> bool:
        """Say whether the change that has a generation is in the history."""
        with self._database.read() as connection:
            return self._has(connection, generation)

    def has_served(self, version: int) -> bool:
        """Say whether a version was ever the champion."""
        query = select(history.c.position).where(*self._changes(), history.c.to_version == version).limit(1)
        return bool(self._number(query))

    def champion_before(self, version: int) -> int:
        """Return the champion that a version replaced at its last promotion; 0 when there was none."""
        promoted = history.c.action == pb.HISTORY_ACTION_PROMOTED
        query = select(history.c.record).where(self._of_model(), history.c.to_version == version, promoted)
        last = next(iter(self._read(query.order_by(history.c.position.desc()).limit(1))), None)
        return last.from_version if last else 0

    def add_rules(self, entry: pb.HistoryEntry) -> None:
        """Add the rules of the gate for an entry's version. Nothing is raised when they cannot be read."""
        try:
            entry.rules.extend(self._rules_of(entry.to_version))
        except (ModelVersionNotFound, StorageFailed):
            _log.warning("the decision of the gate cannot be read for the history", version=entry.to_version)

    def add_change(self, connection: Connection, entry: pb.HistoryEntry) -> None:
        """Add a change of the champion in a transaction, unless its generation is in the history already."""
        # Taking a position locks the counter. So of two trainers that add the same change, the second sees the first.
        (position,) = next_positions(connection, HISTORY)
        if not self._has(connection, entry.generation):
            insert_entry(connection, self._model, position, entry)

    def record_refusal(self, version: int, champion: pb.ChampionAlias | None, by: str, reason: str) -> None:
        """Record that a version was refused, and which champion served at that time.

        When the entry cannot be written, this is logged and nothing is raised: the row of the version says it too.
        """
        entry = pb.HistoryEntry(
            action=pb.HISTORY_ACTION_REFUSED,
            from_version=champion.version if champion else 0,
            to_version=version,
            generation=champion.generation if champion else 0,
            by=by,
            reason=reason,
        )
        entry.at.FromDatetime(datetime.now(UTC))
        self.add_rules(entry)
        try:
            with self._database.write() as connection:
                (position,) = next_positions(connection, HISTORY)
                insert_entry(connection, self._model, position, entry)
        except StorageFailed as error:
            _log.error("cannot write the history", problem=str(error))

    def _has(self, connection: Connection, generation: int) -> bool:
        query = select(history.c.position).where(*self._changes(), history.c.generation == generation).limit(1)
        return connection.scalar(query) is not None

    def _read(self, query: "Select[Any]") -> list[pb.HistoryEntry]:
        with self._database.read() as connection:
            found = (parse_message(record, pb.HistoryEntry()) for record in connection.scalars(query))
            return [entry for entry in found if entry is not None]

    def _number(self, query: "Select[Any]") -> int:
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def _of_model(self) -> ColumnElement[bool]:
        return history.c.model == self._model

    def _changes(self) -> tuple[ColumnElement[bool], ...]:
        # Spelt as in the index: a parameter instead of the number would keep both databases from using it.
        return self._of_model(), history.c.action != literal_column(str(int(pb.HISTORY_ACTION_REFUSED)))


def insert_entry(connection: Connection, model: str, position: int, entry: pb.HistoryEntry) -> None:
    """Insert an entry of a model's history."""
    connection.execute(
        history.insert().values(
            position=position,
            model=model,
            action=entry.action,
            to_version=entry.to_version,
            generation=entry.generation,
            record=to_json(entry, indent=None),
        )
    )
