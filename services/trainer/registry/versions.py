"""The versions of a model: folders in the repository that are written once and never changed, and their rows.

The folder is the truth of what a version is; nobody sees a half-written one. Its reports are also in its row, together
with what changes later: the report of the rehearsal, and whether the version is still there. A row that is missing is
made from the folder. Each file is either an ONNX graph or a message of moodfood.registry.v1 stored as JSON.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import MANIFEST_FILE
from services.repository.errors import DamagedVersion, VersionExists, VersionMissing
from services.repository.repository import Repository
from services.trainer.errors import BrokenData, ModelVersionNotFound, StorageFailed, VersionRefused
from services.trainer.registry.version_records import VersionRecord, VersionRecords
from services.trainer.storage import repository_errors

EVALUATION_FILE = "evaluation.json"
DECISION_FILE = "decision.json"
# In the folders of versions that were rehearsed before there were rows.
REHEARSAL_FILE = "rehearsal.json"

_log = structlog.get_logger()


@dataclass(frozen=True)
class Differences:
    """In what the rows and the folders of versions differ.

    Attributes:
        without_row: versions whose row is missing, or was made from another folder.
        without_folder: versions that have a row and no folder.

    """

    without_row: list[int]
    without_folder: list[int]


class Versions:
    """Reads and writes the versions of one model. Every method raises StorageFailed and blocks.

    `highest_used` returns the highest version that history and alias name, so that no number is used again after a
    deletion.
    """

    def __init__(self, repository: Repository, records: VersionRecords, highest_used: Callable[[], int]) -> None:
        self._repository = repository
        self._records = records
        self._highest_used = highest_used

    def numbers(self) -> list[int]:
        """Return the numbers of the complete versions, newest first."""
        with repository_errors():
            return self._repository.versions()

    def is_there(self, version: int) -> bool:
        """Say whether the repository has a version."""
        return bool(self._read_file(version, MANIFEST_FILE))

    def list_newest(self, count: int) -> list[VersionRecord]:
        """Return the newest versions, newest first. One whose row is missing is left out until `repair`."""
        return self._records.list_newest(count)

    def manifest(self, version: int) -> pb.Manifest:
        """Return a version's manifest, also of a version that was deleted.

        Raises:
            ModelVersionNotFound: there was no such version, or its manifest cannot be read.

        """
        return self._record(version).manifest

    def evaluation(self, version: int) -> pb.EvaluationReport:
        """Return the metrics of a version on the hold-out, also of a deleted one. Raises ModelVersionNotFound."""
        return self._record(version).evaluation

    def decision(self, version: int) -> pb.PromotionDecision:
        """Return the decision of the gate and, if there was one, of the rehearsal, also of a deleted version.

        Raises ModelVersionNotFound.
        """
        return self._record(version).decision

    def list_failed_rules(self, version: int) -> list[pb.RuleResult]:
        """Return the rules of the gate and of the rehearsal that a version failed. Raises ModelVersionNotFound."""
        return [rule for rule in self.decision(version).rules if not rule.passed]

    def check_promotable(self, version: int) -> None:
        """Refuse a version that the gate or its rehearsal refused.

        Raises:
            ModelVersionNotFound: the repository has no such version.
            VersionRefused: it was refused; names the rules.

        """
        if not self.is_there(version):
            raise ModelVersionNotFound(version)
        decision = self.decision(version)
        if not decision.promoted:
            raise VersionRefused(version, ", ".join(rule.rule for rule in decision.rules if not rule.passed))

    def is_rehearsed(self, version: int) -> bool:
        """Say whether a version was rehearsed. Raises ModelVersionNotFound."""
        return bool(self._record(version).rehearsal_json)

    def add_rehearsal(self, version: int, rehearsal: pb.Rehearsal) -> None:
        """Store the report of a version's rehearsal. Raises ModelVersionNotFound."""
        if not self._records.set_rehearsal(version, rehearsal):
            self._records.write(self._read_folder(version))
            self._records.set_rehearsal(version, rehearsal)

    def file(self, version: int, name: str) -> bytes:
        """Return the content of one file of a version. Raises ModelVersionNotFound."""
        try:
            with repository_errors():
                try:
                    return (self._repository.folder_of(version) / name).read_bytes()
                except FileNotFoundError:
                    # An inference process on this machine may just have dropped the copy. It is fetched again.
                    return (self._repository.folder_of(version) / name).read_bytes()
        except (OSError, VersionMissing, DamagedVersion) as error:
            raise ModelVersionNotFound(version) from error

    def register(self, contents_of: Callable[[int], Mapping[str, bytes]]) -> int:
        """Write a new version and return its number, which was never used before.

        Args:
            contents_of: takes the number of the version, and returns its files from name to content. It is called
                again when the number turns out to be taken.

        Raises:
            StorageFailed: a file could not be written; there is no new version.

        """
        highest = max([self._highest_used(), *self.numbers()])
        while True:
            version = self._records.take_number(highest)
            files = contents_of(version)
            # A number that is new to the database can belong to an upload that died and that no version shows.
            with repository_errors(), contextlib.suppress(VersionExists):
                self._repository.add_version(version, files)
                break
        try:
            self._records.write(_record_of(version, lambda name: files.get(name, b"")))
        except StorageFailed as error:
            # The version is there. Its row is made from its folder by the next rehearsal or repair.
            _log.error("cannot write the row of a version", version=version, problem=str(error))
        return version

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
            with repository_errors():
                self._repository.delete_version(version)
            self._records.mark_deleted([version])
        return surplus

    def repair(self) -> None:
        """Remove half-written versions, and make the rows agree with the folders. No run may be in progress."""
        with repository_errors():
            self._repository.remove_unfinished()
        different = self.compare()
        for version in different.without_row:
            self._adopt(version)
        self._records.mark_deleted(different.without_folder)

    def compare(self) -> "Differences":
        """Return in what rows and folders differ."""
        # The rows come first. So a version that is registered meanwhile, by a run that was taken for dead, is at most
        # adopted a second time and never noted as deleted.
        rows, folders = self._records.list_there(), self.numbers()
        return Differences(
            [version for version in folders if version not in rows or not self._is_row_of(version)],
            [version for version in rows if version not in folders],
        )

    def check_files(self, version: int) -> None:
        """Read every file of a version. Raises ModelVersionNotFound, and BrokenData that says what is damaged."""
        try:
            with repository_errors():
                self._repository.check_version(version)
        except VersionMissing as error:
            raise ModelVersionNotFound(version) from error
        except DamagedVersion as error:
            raise BrokenData(str(error)) from error

    def unfinished(self) -> list[str]:
        """Return the names of what `repair` removes: what writes that died have left in the repository."""
        with repository_errors():
            return self._repository.unfinished()

    def _is_row_of(self, version: int) -> bool:
        """Say whether the row of a version is made from its folder. Another one can have had the number before."""
        row = self._records.get(version)
        return row is not None and row.manifest_json == self._read_file(version, MANIFEST_FILE).decode(errors="replace")

    def _adopt(self, version: int) -> None:
        try:
            self._records.write(self._read_folder(version))
        except ModelVersionNotFound:
            _log.error("the manifest of a version cannot be read", version=version)

    def _record(self, version: int) -> VersionRecord:
        return self._records.get(version) or self._read_folder(version)

    def _read_folder(self, version: int) -> VersionRecord:
        return _record_of(version, lambda name: self._read_file(version, name))

    def _read_file(self, version: int, name: str) -> bytes:
        with repository_errors():
            stored = self._repository.read(f"{version}/{name}") if version > 0 else None
        return stored.content if stored else b""


def _record_of(version: int, content_of: Callable[[str], bytes]) -> VersionRecord:
    names = (MANIFEST_FILE, EVALUATION_FILE, DECISION_FILE, REHEARSAL_FILE)
    return VersionRecord(version, *(content_of(name).decode(errors="replace") for name in names))
