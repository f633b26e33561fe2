"""The history of a model: a file that is only appended to, one line for each promotion, rollback and refusal."""

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
    """The file models/<model>/history.jsonl."""

    def __init__(self, folder: Path, rules_of: Callable[[int], list[pb.RuleResult]]) -> None:
        self._path = folder / HISTORY_FILE
        self._rules_of = rules_of

    def entries(self) -> list[pb.HistoryEntry]:
        """Return every readable entry, oldest first."""
        return list(read_messages(self._path, pb.HistoryEntry))

    def changes(self) -> list[pb.HistoryEntry]:
        """Return the entries that changed the champion or confirmed it, oldest first."""
        return [entry for entry in self.entries() if entry.action != pb.HISTORY_ACTION_REFUSED]

    def highest_version(self) -> int:
        """Return the highest version that was ever named; 0 if none was."""
        return max((entry.to_version for entry in self.entries()), default=0)

    def highest_generation(self) -> int:
        """Return the highest generation of the alias that was ever recorded; 0 if none was."""
        return max((entry.generation for entry in self.entries()), default=0)

    def has_served(self, version: int) -> bool:
        """Say whether a version was ever the champion."""
        return any(entry.to_version == version for entry in self.changes())

    def champion_before(self, version: int) -> int:
        """Return the champion that a version replaced when it was last promoted; 0 if there was none."""
        for entry in reversed(self.entries()):
            if entry.action == pb.HISTORY_ACTION_PROMOTED and entry.to_version == version:
                return entry.from_version
        return 0

    def record(self, entry: pb.HistoryEntry) -> None:
        """Append an entry, with the gate's numbers of the version it is about.

        The alias counts, not the history: a disk that refuses the line is reported and fails nothing. The registry adds
        a missing line when it is repaired.
        """
        try:
            entry.rules.extend(self._rules_of(entry.to_version))
        except ModelVersionNotFound:
            _log.warning("the history cannot tell what the gate measured", version=entry.to_version)
        try:
            append_lines(self._path, [to_json(entry, indent=None)])
        except StorageFailed as error:
            _log.error("cannot write the history", problem=str(error))

    def record_refusal(self, version: int, champion: pb.ChampionAlias | None, by: str, reason: str) -> None:
        """Record that a version was refused while a champion served."""
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
