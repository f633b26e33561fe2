"""Stores feedback in a file of FeedbackRecords as JSON lines. Records are added at the end of the file.

Only a deletion rewrites the file, and every record keeps its place: a deleted record stays as an empty record that
callers never see. So the first n records stay the first n, and a snapshot can say how many records it contains.
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
    """One statement that a query has these labels. Without labels, it says that no label fits."""

    text: str
    labels: tuple[str, ...]
    query_id: str = ""
    user_id: str = ""
    source: str = "feedback"
    request_id: str = ""


class FeedbackStore:
    """Adds, reads and deletes feedback. It parses each line once. Threads and processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._parsed: list[FeedbackRecord] = []
        self._by_request: dict[str, str] = {}
        self._inode = -1
        self._offset = 0
        self._reading = threading.Lock()

    def add(self, items: Sequence[Feedback]) -> list[str]:
        """Store all items with one write, and return their ids in order. When it returns, they are on disk.

        An item whose request id is already stored is not stored again; its id is that of the stored record.

        Raises:
            StorageFailed: no item was stored.

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
        """Return the records, oldest first, without the deleted ones. A line that cannot be read is left out."""
        return [record for record in self._all() if not record.deleted]

    def count(self) -> int:
        """Return the number of records, with the deleted ones."""
        return len(self._all())

    def count_new_texts(self, seen: int) -> int:
        """Return how many different texts were labelled after the first `seen` records."""
        return len({normalise(record.text) for record in self._all()[seen:] if not record.deleted})

    def delete(self, doomed: Callable[[FeedbackRecord], bool]) -> list[FeedbackRecord]:
        """Empty the records for which `doomed` is true, all or none. Returns them as they were before.

        Raises:
            StorageFailed: no record was deleted.

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
