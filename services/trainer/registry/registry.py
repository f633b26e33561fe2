"""The model registry: immutable versions, the champion alias, and the history of both.

A version is written to a hidden folder, synced and renamed, so a half-written one is never visible; it is never
changed after. The alias is replaced atomically under a lock and its generation only grows. The history is only
appended to. Every file is a message of moodfood.registry.v1 stored as JSON.
"""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from filelock import FileLock
from google.protobuf.message import Message
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import ExperimentInProgress, ModelVersionNotFound, StorageFailed
from services.trainer.storage import (
    append_lines,
    read_message,
    read_messages,
    replace_file,
    sync_folder,
    to_json,
    write_synced,
)

MANIFEST_FILE = "manifest.json"
EVALUATION_FILE = "evaluation.json"
DECISION_FILE = "decision.json"
REHEARSAL_FILE = "rehearsal.json"
UNFINISHED_PREFIX = ".unfinished-"

_log = structlog.get_logger()

M = TypeVar("M", bound=Message)


class ModelRegistry:
    """The folder models/<model>."""

    def __init__(self, models_dir: Path, model: str, keep_versions: int) -> None:
        self.model = model
        self.folder = models_dir / model
        self._keep_versions = keep_versions

    @property
    def embeddings_folder(self) -> Path:
        """Where embeddings of the dataset lie."""
        return self.folder / "embeddings"

    @property
    def snapshots_folder(self) -> Path:
        """Where dataset snapshots lie."""
        return self.folder / "snapshots"

    def versions(self) -> list[int]:
        """Return the numbers of the complete versions, newest first."""
        if not self.folder.is_dir():
            return []
        numbers = (
            int(path.name)
            for path in self.folder.iterdir()
            if path.name.isascii() and path.name.isdecimal() and path.is_dir()
        )
        return sorted(numbers, reverse=True)

    def manifest(self, version: int) -> pb.Manifest:
        """Return a version's manifest.

        Raises:
            ModelVersionNotFound: no such version, or its manifest cannot be read.

        """
        return self._read(version, MANIFEST_FILE, pb.Manifest())

    def evaluation(self, version: int) -> pb.EvaluationReport:
        """Return how a version did. Raises ModelVersionNotFound."""
        return self._read(version, EVALUATION_FILE, pb.EvaluationReport())

    def decision(self, version: int) -> pb.PromotionDecision:
        """Return what the gate, and the rehearsal if there was one, said of a version. Raises ModelVersionNotFound."""
        decision = self._read(version, DECISION_FILE, pb.PromotionDecision())
        if self.is_rehearsed(version):
            rehearsal = self._read(version, REHEARSAL_FILE, pb.Rehearsal())
            decision.rules.extend(rehearsal.rules)
            decision.promoted = decision.promoted and all(rule.passed for rule in rehearsal.rules)
        return decision

    def is_rehearsed(self, version: int) -> bool:
        """Say whether a version was rehearsed."""
        return (self.folder / str(version) / REHEARSAL_FILE).exists()

    def add_rehearsal(self, version: int, rehearsal: pb.Rehearsal) -> None:
        """Write beside a version's files how its rehearsal went; they stay as they are. Raises StorageFailed."""
        replace_file(self.folder / str(version) / REHEARSAL_FILE, to_json(rehearsal).encode())

    def file(self, version: int, name: str) -> bytes:
        """Return one file of a version. Raises ModelVersionNotFound."""
        try:
            return (self.folder / str(version) / name).read_bytes()
        except OSError as error:
            raise ModelVersionNotFound(version) from error

    def register(self, contents_of: Callable[[int], Mapping[str, bytes]]) -> int:
        """Write a new version and return its number.

        Args:
            contents_of: given the number, returns file name -> content.

        Raises:
            StorageFailed: the disk refused; nothing is visible.

        """
        unfinished = self.folder / f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
        try:
            unfinished.mkdir(parents=True)
            with self._locked():
                version = max([0, *self.versions(), *(entry.to_version for entry in self.history())]) + 1
                for name, content in contents_of(version).items():
                    write_synced(unfinished / name, content)
                sync_folder(unfinished)
                unfinished.rename(self.folder / str(version))
                sync_folder(self.folder)
            return version
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise StorageFailed(f"cannot write the version: {error.strerror}") from error

    def champion(self) -> pb.ChampionAlias | None:
        """Return the alias; if its file is damaged, what the history says; None if nothing was ever promoted."""
        path = self.folder / "champion"
        alias = read_message(path, pb.ChampionAlias())
        return self._alias_by_history() if alias is None and path.exists() else alias

    def pending(self) -> pb.ChampionAlias | None:
        """Return the change that was begun and not ended; None if there is none."""
        return read_message(self.folder / "pending", pb.ChampionAlias())

    def set_pending(self, version: int, generation: int) -> None:
        """Note that replicas are about to swap. Raises StorageFailed: nobody has swapped."""
        replace_file(
            self.folder / "pending", to_json(pb.ChampionAlias(version=version, generation=generation)).encode()
        )

    def clear_pending(self) -> None:
        """Note that no replica is ahead of the alias."""
        with contextlib.suppress(OSError):
            (self.folder / "pending").unlink(missing_ok=True)

    def experiment(self) -> pb.Experiment | None:
        """Return the experiment of the file, running or ended; None if there is none or it cannot be read."""
        return read_message(self.folder / "experiment", pb.Experiment())

    def begin_experiment(self, experiment: pb.Experiment) -> None:
        """Write an experiment for the replicas to follow.

        Raises:
            ExperimentInProgress: another was begun meanwhile.
            StorageFailed: it has not begun.

        """
        with self._locked():
            present = self.experiment()
            if present is not None and present.running:
                raise ExperimentInProgress(present.experiment_id)
            replace_file(self.folder / "experiment", to_json(experiment).encode())

    def end_experiment(self, experiment: pb.Experiment) -> None:
        """Write how an experiment ended. Raises StorageFailed: it goes on."""
        with self._locked():
            replace_file(self.folder / "experiment", to_json(experiment).encode())
            append_lines(self.folder / "experiments.jsonl", [to_json(experiment, indent=None)])

    def next_generation(self) -> int:
        """Return a generation above every one that was ever used."""
        aliases = (alias for alias in (self.champion(), self.pending()) if alias is not None)
        used = [*(entry.generation for entry in self.history()), *(alias.generation for alias in aliases)]
        return max(used, default=0) + 1

    def move_alias(
        self, version: int, previous: int, generation: int, action: "pb.HistoryAction.ValueType", by: str, reason: str
    ) -> pb.ChampionAlias:
        """Make a version the champion and record it.

        Raises:
            StorageFailed: the alias still names the old champion.

        """
        with self._locked():
            before = self.champion()
            alias = pb.ChampionAlias(version=version, generation=generation, previous=previous, by=by, reason=reason)
            alias.promoted_at.FromDatetime(datetime.now(UTC))
            replace_file(self.folder / "champion", to_json(alias).encode())
            self._note(_entry(alias, action, before.version if before else 0))
        return alias

    def record_refusal(self, version: int, by: str, reason: str) -> None:
        """Record that the gate refused a version. A disk that refuses the line is reported and changes nothing."""
        champion = self.champion()
        entry = pb.HistoryEntry(
            action=pb.HISTORY_ACTION_REFUSED,
            from_version=champion.version if champion else 0,
            to_version=version,
            generation=champion.generation if champion else 0,
            by=by,
            reason=reason,
        )
        entry.at.FromDatetime(datetime.now(UTC))
        self._note(entry)

    def history(self) -> list[pb.HistoryEntry]:
        """Return every readable entry, oldest first."""
        return list(read_messages(self.folder / "history.jsonl", pb.HistoryEntry))

    def champion_before(self, version: int) -> int:
        """Return the champion that a version replaced when it was last promoted; 0 if there was none."""
        for entry in reversed(self.history()):
            if entry.action == pb.HISTORY_ACTION_PROMOTED and entry.to_version == version:
                return entry.from_version
        return 0

    def prune(self) -> list[int]:
        """Delete all but the newest versions, the champion and its predecessor; return what was deleted."""
        champion = self.champion()
        kept = {champion.version, champion.previous} if champion else set()
        experiment = self.experiment()
        if experiment is not None and experiment.running:
            kept.add(experiment.challenger_version)
        versions = self.versions()
        surplus = [version for version in versions[self._keep_versions :] if version not in kept]
        for version in surplus:
            hidden = self.folder / f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
            (self.folder / str(version)).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        return surplus

    def repair(self) -> None:
        """Remove what a kill left half-written and note a promotion whose history line is missing.

        Call it only while no run is going on.
        """
        for leftover in self.folder.glob(f"{UNFINISHED_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.folder.glob(".champion.*"):
            leftover.unlink(missing_ok=True)
        champion, history = self.champion(), self.history()
        if champion is not None and read_message(self.folder / "champion", pb.ChampionAlias()) is None:
            _log.error("the champion alias was damaged and is written anew", version=champion.version)
            replace_file(self.folder / "champion", to_json(champion).encode())
        recorded = max((entry.generation for entry in history), default=0)
        if champion is not None and champion.generation > recorded:
            from_version = next(
                (entry.to_version for entry in reversed(history) if entry.action != pb.HISTORY_ACTION_REFUSED), 0
            )
            self._note(_entry(champion, pb.HISTORY_ACTION_PROMOTED, from_version))

    def _alias_by_history(self) -> pb.ChampionAlias | None:
        for entry in reversed(self.history()):
            if entry.action != pb.HISTORY_ACTION_REFUSED:
                return pb.ChampionAlias(
                    version=entry.to_version,
                    generation=entry.generation,
                    previous=self.champion_before(entry.to_version),
                    promoted_at=entry.at,
                    by=entry.by,
                    reason=entry.reason,
                )
        return None

    def _note(self, entry: pb.HistoryEntry) -> None:
        """Append an entry with the gate's numbers. The alias counts; `repair` adds a line that could not be written."""
        with contextlib.suppress(ModelVersionNotFound):
            entry.rules.extend(self.decision(entry.to_version).rules)
        try:
            append_lines(self.folder / "history.jsonl", [to_json(entry, indent=None)])
        except StorageFailed as error:
            _log.error("cannot write the history", problem=str(error))

    def _locked(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock", timeout=10)

    def _read(self, version: int, name: str, message: M) -> M:
        found = read_message(self.folder / str(version) / name, message)
        if found is None:
            raise ModelVersionNotFound(version)
        return found


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
