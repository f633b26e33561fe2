"""The history of the champion: one line for each promotion, rollback and refusal. Lines are only ever added."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import HISTORY_FILE
from services.trainer.errors import ModelVersionNotFound, StorageFailed
from services.trainer.storage import append_lines, read_messages, to_json

_log = structlog.get_logger()


class History:
    """Reads and writes the file models/<model>/history.jsonl."""

    def __init__(self, folder: Path, rules_of: Callable[[int], list[pb.RuleResult]]) -> None:
        self._path = folder / HISTORY_FILE
        self._rules_of = rules_of

    def entries(self) -> list[pb.HistoryEntry]:
        """Return every entry that can be read, oldest first."""
        return list(read_messages(self._path, pb.HistoryEntry))

    def changes(self) -> list[pb.HistoryEntry]:
        """Return the entries that changed the champion or confirmed it, oldest first."""
        return [entry for entry in self.entries() if entry.action != pb.HISTORY_ACTION_REFUSED]

    def highest_version(self) -> int:
        """Return the highest version in the history; 0 when it is empty."""
        return max((entry.to_version for entry in self.entries()), default=0)

    def highest_generation(self) -> int:
        """Return the highest generation in the history; 0 when it is empty."""
        return max((entry.generation for entry in self.entries()), default=0)

    def has_served(self, version: int) -> bool:
        """Say whether a version was ever the champion."""
        return any(entry.to_version == version for entry in self.changes())

    def champion_before(self, version: int) -> int:
        """Return the champion that a version replaced at its last promotion; 0 when there was none."""
        for entry in reversed(self.entries()):
            if entry.action == pb.HISTORY_ACTION_PROMOTED and entry.to_version == version:
                return entry.from_version
        return 0

    def record(self, entry: pb.HistoryEntry) -> None:
        """Add an entry, together with the rules of the gate for its version.

        The alias is the truth and the history only follows it. So when the line cannot be written, this is logged and
        nothing is raised. `Alias.repair` adds a missing promotion later.
        """
        try:
            entry.rules.extend(self._rules_of(entry.to_version))
        except ModelVersionNotFound:
            _log.warning("the decision of the gate cannot be read for the history", version=entry.to_version)
        try:
            append_lines(self._path, [to_json(entry, indent=None)])
        except StorageFailed as error:
            _log.error("cannot write the history", problem=str(error))

    def record_refusal(self, version: int, champion: pb.ChampionAlias | None, by: str, reason: str) -> None:
        """Record that a version was refused, and which champion served at that time."""
        entry = pb.HistoryEntry(
            action=pb.HISTORY_ACTION_REFUSED,
            from_version=champion.version if champion else 0,
            to_version=version,
            generation=champion.generation if champion else 0,
            by=by,
            reason=reason,
        )
        entry.at.FromDatetime(datetime.now(UTC))
        self.record(entry)
