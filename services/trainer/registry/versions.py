"""The versions of a model: numbered folders that are written once and never changed.

A version is written to a hidden folder, synced to disk and then renamed, so nobody sees a half-written version. Only
the report of its rehearsal is added later, as a separate file. Each file is either an ONNX graph or a message of
moodfood.registry.v1 stored as JSON.
"""

import shutil
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import MANIFEST_FILE
from services.trainer.errors import ModelVersionNotFound, VersionRefused
from services.trainer.storage import (
    locked,
    read_message,
    replace_file,
    storage_errors,
    sync_folder,
    to_json,
    write_synced,
)

EVALUATION_FILE = "evaluation.json"
DECISION_FILE = "decision.json"
REHEARSAL_FILE = "rehearsal.json"
UNFINISHED_PREFIX = ".unfinished-"

M = TypeVar("M", bound=Message)


class Versions:
    """Reads and writes the numbered folders in models/<model>.

    `highest_used` returns the highest version in the history, so that no number is used again after a deletion.
    """

    def __init__(self, folder: Path, highest_used: Callable[[], int]) -> None:
        self._folder = folder
        self._highest_used = highest_used

    def numbers(self) -> list[int]:
        """Return the numbers of the complete versions, newest first."""
        if not self._folder.is_dir():
            return []
        numbers = (
            int(path.name)
            for path in self._folder.iterdir()
            if path.name.isascii() and path.name.isdecimal() and path.is_dir()
        )
        return sorted(numbers, reverse=True)

    def manifest(self, version: int) -> pb.Manifest:
        """Return a version's manifest.

        Raises:
            ModelVersionNotFound: there is no such version, or its manifest cannot be read.

        """
        return self._read(version, MANIFEST_FILE, pb.Manifest())

    def evaluation(self, version: int) -> pb.EvaluationReport:
        """Return the metrics of a version on the hold-out. Raises ModelVersionNotFound."""
        return self._read(version, EVALUATION_FILE, pb.EvaluationReport())

    def decision(self, version: int) -> pb.PromotionDecision:
        """Return the decision of the gate and, if there was one, of the rehearsal. Raises ModelVersionNotFound."""
        decision = self._read(version, DECISION_FILE, pb.PromotionDecision())
        if self.is_rehearsed(version):
            rehearsal = self._read(version, REHEARSAL_FILE, pb.Rehearsal())
            decision.rules.extend(rehearsal.rules)
            decision.promoted = decision.promoted and all(rule.passed for rule in rehearsal.rules)
        return decision

    def list_failed_rules(self, version: int) -> list[pb.RuleResult]:
        """Return the rules of the gate and of the rehearsal that a version failed. Raises ModelVersionNotFound."""
        return [rule for rule in self.decision(version).rules if not rule.passed]

    def check_promotable(self, version: int) -> None:
        """Refuse a version that the gate or its rehearsal refused.

        Raises:
            ModelVersionNotFound: there is no such version.
            VersionRefused: it was refused; names the rules.

        """
        self.manifest(version)
        if not self.decision(version).promoted:
            raise VersionRefused(version, ", ".join(rule.rule for rule in self.list_failed_rules(version)))

    def is_rehearsed(self, version: int) -> bool:
        """Say whether a version was rehearsed."""
        return (self._folder / str(version) / REHEARSAL_FILE).exists()

    def add_rehearsal(self, version: int, rehearsal: pb.Rehearsal) -> None:
        """Add the report of a rehearsal to the folder of a version. Raises StorageFailed."""
        replace_file(self._folder / str(version) / REHEARSAL_FILE, to_json(rehearsal).encode())

    def file(self, version: int, name: str) -> bytes:
        """Return the content of one file of a version. Raises ModelVersionNotFound."""
        try:
            return (self._folder / str(version) / name).read_bytes()
        except OSError as error:
            raise ModelVersionNotFound(version) from error

    def register(self, contents_of: Callable[[int], Mapping[str, bytes]]) -> int:
        """Write a new version and return its number, which was never used before.

        Args:
            contents_of: takes the number of the version, and returns its files from name to content.

        Raises:
            StorageFailed: a file could not be written; there is no new version.

        """
        unfinished = self._folder / f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
        try:
            with storage_errors("write the version"), locked(self._folder / ".lock"):
                unfinished.mkdir(parents=True)
                version = max([self._highest_used(), *self.numbers()]) + 1
                for name, content in contents_of(version).items():
                    write_synced(unfinished / name, content)
                sync_folder(unfinished)
                unfinished.rename(self._folder / str(version))
                sync_folder(self._folder)
            return version
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def delete_all_but(self, newest: int, kept: Collection[int]) -> list[int]:
        """Delete all versions except the newest ones and those to keep. Returns the deleted versions.

        Args:
            newest: how many of the newest versions stay.
            kept: further versions that stay.

        Raises:
            StorageFailed: a version could not be deleted. It and all older ones are still there.

        """
        surplus = [version for version in self.numbers()[newest:] if version not in kept]
        for version in surplus:
            hidden = self._folder / f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
            with storage_errors(f"delete version {version}"):
                (self._folder / str(version)).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        return surplus

    def remove_unfinished(self) -> None:
        """Remove half-written versions that a killed process left behind. Raises StorageFailed."""
        with locked(self._folder / ".lock"):
            for leftover in self._folder.glob(f"{UNFINISHED_PREFIX}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _read(self, version: int, name: str, message: M) -> M:
        found = read_message(self._folder / str(version) / name, message)
        if found is None:
            raise ModelVersionNotFound(version)
        return found
