"""Stores the queries of the query log, for which earlier releases had no other place.

The log stays where it is: it belongs to inference, which goes on writing it and deletes from it what is forgotten. It
is read backwards, in small transactions, because the newest queries are those that people correct and review. A call
that was killed is continued by the next one, which finds the newest queries stored already.
"""

import hashlib
from array import array
from collections.abc import Iterator
from pathlib import Path

from moodfood.events.v1.events_pb2 import QueryRecord

from services.trainer.feedback.answered_query import is_id
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review_queue import MOST_WAITING
from services.trainer.storage import parse_message, storage_errors
from services.trainer.upkeep.old_files import QUERIES, Folders, MoveReport

# The path under which `moved_files` remembers that the log was read.
LOG_NAME = "logs/query_logs.jsonl"
LINES_AT_ONCE = 1000
_RETRAINING = "retraining"


def store_queries(store: QueryStore, folders: Folders, keep: int, report: MoveReport) -> bytes:
    """Store the newest queries of the log and its rotated files, and return the SHA-256 of what was read.

    Args:
        store: where they are stored.
        folders: where the log is.
        keep: how many queries are stored at most, with those that are stored already.
        report: what is counted.

    Raises:
        StorageFailed: call it again; what was stored stays.

    """
    digest = hashlib.sha256()
    stored, seen = store.count(), 0
    for path in _list_newest_first(folders.query_log):
        for first, lines in _read_backwards(path):
            for line in lines:
                digest.update(line)
            if stored >= keep:
                return digest.digest()
            records = _parse(path, first, lines, report)
            fresh = store.keep_older(records[stored - keep :], keep - stored, for_review=seen < MOST_WAITING)
            stored, seen = stored + fresh, seen + len(records)
            report.read[QUERIES] += len(records)
            report.stored[QUERIES] += fresh
    return digest.digest()


def _parse(path: Path, first: int, lines: list[bytes], report: MoveReport) -> list[QueryRecord]:
    """Return the queries of some lines. The log has other events too, which are not counted."""
    records = []
    for number, line in enumerate(lines, start=first):
        record = parse_message(line, QueryRecord()) if line.strip() else QueryRecord(event=_RETRAINING)
        if record is not None and record.event == _RETRAINING:
            continue
        if record is not None and record.event == "query" and is_id(record.query_id):
            records.append(record)
        else:
            report.read[QUERIES] += 1
            report.refuse(QUERIES, f"logs/{path.name} line {number}")
    return records


def _list_newest_first(log: Path) -> list[Path]:
    rotated = [path for path in log.parent.glob(f"{log.name}.*") if path.suffix[1:].isdecimal()]
    return [*([log] if log.is_file() else []), *sorted(rotated, key=lambda path: int(path.suffix[1:]))]


def _read_backwards(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of a file in parts, the last part first, each with the number of its first line."""
    with storage_errors(f"read {path.name}"), path.open("rb") as file:
        starts, offset = array("Q"), 0
        for line in file:
            starts.append(offset)
            offset += len(line)
        for end in range(len(starts), 0, -LINES_AT_ONCE):
            first = max(0, end - LINES_AT_ONCE)
            file.seek(starts[first])
            yield first + 1, [file.readline() for _ in range(first, end)]
