"""The rows of versions: what each one is, what gate and rehearsal said of it, and whether it is still there.

The folder of a version is the truth of what it is. Its row is written right after the folder is complete, and stays
when the folder is deleted, so that the reasons of the gate outlive it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.exc import IntegrityError

from services.trainer.database.database import Database
from services.trainer.database.tables import versions
from services.trainer.errors import ModelVersionNotFound, StorageFailed
from services.trainer.storage import parse_message, to_json

# Two trainers that want a number at the same time get two; one of them asks again.
NUMBER_ATTEMPTS = 20

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class VersionRecord:
    """A version's reports as JSON. The properties raise ModelVersionNotFound if the report is missing or damaged.

    `rehearsal_json` is empty while the version was not rehearsed.
    """

    version: int
    manifest_json: str
    evaluation_json: str
    decision_json: str
    rehearsal_json: str = ""

    @property
    def manifest(self) -> pb.Manifest:
        """What the version is."""
        return self._parse(self.manifest_json, pb.Manifest())

    @property
    def evaluation(self) -> pb.EvaluationReport:
        """The metrics of the version on the hold-out."""
        return self._parse(self.evaluation_json, pb.EvaluationReport())

    @property
    def decision(self) -> pb.PromotionDecision:
        """The decision of the gate and, if there was one, of the rehearsal."""
        decision = self._parse(self.decision_json, pb.PromotionDecision())
        if self.rehearsal_json:
            rehearsal = self._parse(self.rehearsal_json, pb.Rehearsal())
            decision.rules.extend(rehearsal.rules)
            decision.promoted = decision.promoted and all(rule.passed for rule in rehearsal.rules)
        return decision

    def _parse(self, content: str, message: M) -> M:
        found = parse_message(content, message) if content else None
        if found is None:
            raise ModelVersionNotFound(self.version)
        return found


class VersionRecords:
    """Reads and writes the rows of one model's versions. Every method raises StorageFailed."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model

    def take_number(self, above: int) -> int:
        """Take a number for a new version that no version had, higher than `above`. It is never given away again."""
        for _ in range(NUMBER_ATTEMPTS):
            try:
                with self._database.write() as connection:
                    query = select(func.max(versions.c.version)).where(versions.c.model == self._model)
                    number = max(connection.scalar(query) or 0, above) + 1
                    connection.execute(
                        versions.insert().values(
                            **self._key(number),
                            **_columns(VersionRecord(number, "", "", "")),
                            created_at=0,
                            run_id="",
                            snapshot_id="",
                            deleted_at=func.now_micros(),
                        )
                    )
                    return number
            except IntegrityError:
                continue
        raise StorageFailed("other trainers take every number for a new version; try again")

    def write(self, record: VersionRecord) -> None:
        """Write the row of a version whose folder is complete. A rehearsal that is stored already stays.

        Raises ModelVersionNotFound when the manifest cannot be read.
        """
        manifest = record.manifest
        values = {
            **_columns(record),
            "created_at": manifest.created_at.ToMicroseconds(),
            "run_id": manifest.training_run,
            "snapshot_id": manifest.snapshot.id,
            "deleted_at": None,
        }
        if not record.rehearsal_json:
            values.pop("rehearsal")
        try:
            with self._database.write() as connection:
                if not connection.execute(update(versions).where(self._is(record.version)).values(values)).rowcount:
                    connection.execute(versions.insert().values(**self._key(record.version), **values))
        except IntegrityError:  # another trainer has written it meanwhile, from the same folder
            return

    def get(self, version: int) -> VersionRecord | None:
        """Return a version's row, also of a deleted version; None if there is none."""
        query = select(versions).where(self._is(version), versions.c.manifest != "")
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _record(row)

    def list_newest(self, count: int) -> list[VersionRecord]:
        """Return the newest versions that are there, newest first."""
        query = select(versions).where(*self._there()).order_by(versions.c.version.desc()).limit(count)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def list_there(self) -> dict[int, str]:
        """Return the numbers of the versions that are there, newest first, each with the id of its snapshot."""
        query = select(versions.c.version, versions.c.snapshot_id).where(*self._there())
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(versions.c.version.desc())).all()
        return {row.version: row.snapshot_id for row in rows}

    def set_rehearsal(self, version: int, rehearsal: pb.Rehearsal) -> bool:
        """Store the report of a rehearsal. Returns False when the version has no row."""
        change = update(versions).where(self._is(version), versions.c.manifest != "")
        with self._database.write() as connection:
            return connection.execute(change.values(rehearsal=to_json(rehearsal, indent=None))).rowcount == 1

    def mark_deleted(self, numbers: Sequence[int]) -> None:
        """Note that the folders of these versions are gone."""
        if numbers:
            with self._database.write() as connection:
                connection.execute(
                    update(versions)
                    .where(*self._there(), versions.c.version.in_(numbers))
                    .values(deleted_at=func.now_micros())
                )

    def _key(self, version: int) -> dict[str, Any]:
        return {"model": self._model, "version": version}

    def _is(self, version: int) -> ColumnElement[bool]:
        return (versions.c.model == self._model) & (versions.c.version == version)

    def _there(self) -> tuple[ColumnElement[bool], ...]:
        return versions.c.model == self._model, versions.c.deleted_at.is_(None)


def _columns(record: VersionRecord) -> dict[str, Any]:
    return {
        "manifest": record.manifest_json,
        "evaluation": record.evaluation_json,
        "decision": record.decision_json,
        "rehearsal": record.rehearsal_json or None,
    }


def _record(row: Any) -> VersionRecord:
    return VersionRecord(row.version, row.manifest, row.evaluation, row.decision, row.rehearsal or "")
