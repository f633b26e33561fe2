"""The store of what people said about answers: an append-only file of FeedbackRecords as JSON lines."""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import FeedbackRecord

from services.trainer.durable import append_lines


@dataclass(frozen=True)
class Feedback:
    """One statement that a query has these labels."""

    text: str
    labels: tuple[str, ...]
    query_id: str = ""
    user_id: str = ""
    source: str = "feedback"


class FeedbackStore:
    """Appends and reads feedback. What `add` returned for is on disk. Parses each line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parsed: list[FeedbackRecord] = []
        self._offset = 0

    def add(self, items: Sequence[Feedback]) -> list[str]:
        """Store all items with one write and return their ids.

        Raises:
            StorageFailed: none was stored.

        """
        records = [_record(item) for item in items]
        append_lines(self._path, [_line(record) for record in records])
        return [record.feedback_id for record in records]

    def records(self) -> list[FeedbackRecord]:
        """Return every readable record, oldest first; lines torn by a crash are passed over."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._parsed, self._offset = [], 0
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._parsed.extend(_parsed(line))
        except FileNotFoundError:
            return []
        return list(self._parsed)


def _record(item: Feedback) -> FeedbackRecord:
    record = FeedbackRecord(
        feedback_id=uuid.uuid4().hex,
        text=item.text,
        labels=item.labels,
        query_id=item.query_id,
        user_id=item.user_id,
        source=item.source,
    )
    record.at.FromDatetime(datetime.now(UTC))
    return record


def _line(record: FeedbackRecord) -> str:
    return json_format.MessageToJson(record, preserving_proto_field_name=True, indent=None)


def _parsed(line: bytes) -> list[FeedbackRecord]:
    """Return the record of a line, or nothing if it is none."""
    try:
        return [json_format.Parse(line, FeedbackRecord(), ignore_unknown_fields=True)]
    except (json_format.ParseError, UnicodeDecodeError):
        return []
