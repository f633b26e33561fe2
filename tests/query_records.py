"""Records of answered queries as replicas send them, and what the database holds of feedback."""

from typing import Any

from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import QueryRecord
from sqlalchemy import select

from services.trainer.database.database import Database
from services.trainer.database.tables import feedback
from services.trainer.feedback.query_store import QueryStore

SPOOL = "spool-1"


def make_record(query_id: str, text: str = "some soup", **changes: object) -> QueryRecord:
    """Return the record of a query that the linear stage was sure of, with some fields changed."""
    record: dict[str, object] = {
        "event": "query", "query_id": query_id, "text": text, "at": "2100-01-01T00:00:00Z", "stage": "linear",
        "model_version": 1, "latency_micros": 50, "labels": [{"label": "soup", "confidence": 0.9}], **changes,
    }  # fmt: skip
    return json_format.ParseDict(record, QueryRecord())


def keep(database: Database, *records: QueryRecord, spool: str = SPOOL) -> QueryStore:
    """Store records as the next ones of a spool, and return the store."""
    store = QueryStore(database)
    store.keep(spool, store.position_of(spool) + len(records), records)
    return store


def read_feedback(database: Database) -> list[Any]:
    """Return the stored rows, oldest first."""
    with database.read() as connection:
        return list(connection.execute(select(feedback).order_by(feedback.c.position)))
