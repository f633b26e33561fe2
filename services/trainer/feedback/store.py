"""The store of what people said about answers: a file of FeedbackRecords as JSON lines that is only appended to.

Only a deletion rewrites it, and then every record keeps its place: a deleted one stays as an empty shell that callers
never see. So the first n records stay the first n, and a snapshot can say how many of them it has seen.
"""

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import FeedbackRecord

from services.language.text import normalise
from services.trainer.storage import append_lines, locked, replace_file


@dataclass(frozen=True)
class Feedback:
    """One statement that a query has these labels."""

    text: str
    labels: tuple[str, ...]
    query_id: str = ""
    user_id: str = ""
    source: str = "feedback"
    request_id: str = ""


class FeedbackStore:
    """Appends and reads feedback. What `add` returned for is on disk. Parses each line once. Safe between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._parsed: list[FeedbackRecord] = []
        self._by_request: dict[str, str] = {}
        self._inode = -1
        self._offset = 0
        self._reading = threading.Lock()

    def add(self, items: Sequence[Feedback]) -> list[str]:
        """Store all items with one write and return their ids; one whose request id is known is not stored again.

        Raises:
            StorageFailed: none was stored.

        """
        with locked(self._lock_path):
            self._all()
            known = [self._by_request.get(item.request_id, "") if item.request_id else "" for item in items]
            records = [_record(item) for item, earlier in zip(items, known, strict=True) if not earlier]
            if records:
                append_lines(self._path, [_line(record) for record in records])
        fresh = (record.feedback_id for record in records)
        return [earlier or next(fresh) for earlier in known]

    def records(self) -> list[FeedbackRecord]:
        """Return what people said, oldest first, without what was deleted; torn lines are passed over."""
        return [record for record in self._all() if not record.deleted]

    def count(self) -> int:
        """Return how many records there are, those included that were deleted since."""
        return len(self._all())

    def count_new_texts(self, seen: int) -> int:
        """Return how many different texts people gave labels to after the first `seen` records."""
        return len({normalise(record.text) for record in self._all()[seen:] if not record.deleted})

    def delete(self, doomed: Callable[[FeedbackRecord], bool]) -> list[FeedbackRecord]:
        """Empty the records that a rule names, all or none, and return them as they were.

        Raises:
            StorageFailed: nothing was deleted.

        """
        with locked(self._lock_path):
            records = self._all()
            deleted = [record for record in records if not record.deleted and doomed(record)]
            if deleted:
                gone = {record.feedback_id for record in deleted}
                kept = (_shell(record) if record.feedback_id in gone else record for record in records)
                replace_file(self._path, "".join(f"{_line(record)}\n" for record in kept).encode())
        return deleted

    def _all(self) -> list[FeedbackRecord]:
        with self._reading:
            self._read_on()
            return list(self._parsed)

    def _read_on(self) -> None:
        try:
            with self._path.open("rb") as file:
                state = os.fstat(file.fileno())
                if state.st_ino != self._inode or state.st_size < self._offset:
                    self._parsed, self._by_request, self._offset, self._inode = [], {}, 0, state.st_ino
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._remember(line)
        except FileNotFoundError:
            self._parsed, self._by_request, self._offset, self._inode = [], {}, 0, -1

    def _remember(self, line: bytes) -> None:
        try:
            record = json_format.Parse(line, FeedbackRecord(), ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError):
            return
        self._parsed.append(record)
        if record.request_id:
            self._by_request.setdefault(record.request_id, record.feedback_id)


def _record(item: Feedback) -> FeedbackRecord:
    record = FeedbackRecord(
        feedback_id=uuid.uuid4().hex,
        text=item.text,
        labels=item.labels,
        query_id=item.query_id,
        user_id=item.user_id,
        source=item.source,
        request_id=item.request_id,
    )
    record.at.FromDatetime(datetime.now(UTC))
    return record


def _shell(record: FeedbackRecord) -> FeedbackRecord:
    return FeedbackRecord(feedback_id=record.feedback_id, at=record.at, deleted=True)


def _line(record: FeedbackRecord) -> str:
    return json_format.MessageToJson(record, preserving_proto_field_name=True, indent=None)
