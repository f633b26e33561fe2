"""Fills a database with rows for `benchmarks/store.py`. The database makes the rows itself, which is quickest."""

from collections.abc import Mapping
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import Connection, func, select

from services.language.names import ALIAS_FILE
from services.trainer.database.database import Database, last_position
from services.trainer.database.tables import COUNTERS, FEEDBACK, HISTORY, QUERIES, review_items
from services.trainer.feedback.review_queue import MOST_WAITING
from services.trainer.storage import to_json

MODEL = "benchmark"
LABELS = 138
# The drift of the champion is measured on the newest 1,000 queries, against the first 1,000.
MORE_QUERIES = 2000
NEWEST_VERSIONS = 9
# So many statements are newer than the data of the champion.
UNSEEN = 1000
# 2026-01-01 in microseconds since 1970; a statement comes each second.
BEGIN, STEP = 1_767_225_600_000_000, 1_000_000

# Numbers that look random, so that indexes are filled in any order, as digests fill them.
_DIGEST = "((n * 2654435761) % 4294967296)"
_TEXT = "'something warm and spicy for day ' || (n / 2) || ' of the ' || (n % 997) || 'th winter'"
_LABEL = f"'label_' || (n % {LABELS})"
_AT = f"{BEGIN} + n * {STEP}"
_RUN = (
    """'{"run_id": "20260101-' || (1000000000 + n) || '", "state": "RUN_STATE_SUCCEEDED", "percent": 100, """
    """"trigger": "TRIGGER_SCHEDULED", "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:10Z", """
    """"snapshot": {"id": "e8578bb00924d926", "train_examples": 4000}, "evaluation": {"accuracy": 0.9}}'"""
)
_MANIFEST = """'{"model": "benchmark", "version": ' || n || ', "created_at": "2026-01-01T00:00:00Z"}'"""
_CHANGE = (
    """'{"action": "HISTORY_ACTION_PROMOTED", "from_version": ' || (n - 1) || ', "to_version": ' || n || ', """
    """"at": "2026-01-01T00:00:00Z", "by": "trainer", "reason": "passed every rule"}'"""
)

# Table -> how many rows more than statements, and the values of row number n by column.
_ROWS: dict[str, tuple[int, dict[str, str]]] = {
    "feedback": (0, {
        "position": "n", "feedback_id": f"'f' || {_DIGEST} || '-' || n", "at": _AT, "text": _TEXT,
        "text_key": "'k' || ((n / 2 * 2654435761) % 4294967296)", "labels": f"('[\"' || {_LABEL} || '\"]')AS_JSON",
        "query_id": "'q' || n", "user_id": "'person-' || n", "source": "'feedback'", "request_id": "''",
    }),
    "queries": (MORE_QUERIES, {
        "position": "n", "query_id": "'q' || n", "at": _AT, "text": _TEXT,
        "text_key": "'k' || ((n / 2 * 2654435761) % 4294967296)", "label": _LABEL,
        "confidence": "0.5 + (n % 50) / 100.0", "second": "0.1", "stage": "'linear'", "version": "1", "micros": "50",
        "experiment_id": "''", "arm": "''",
    }),
    "review_decisions": (0, {"item_id": f"'d' || {_DIGEST} || '-' || n", "at": _AT}),
    "runs": (0, {
        "run_id": "'20260101-' || (1000000000 + n)", "state": "2", "trigger": "4", "stage": "0", "percent": "100",
        "validate_only": "false", "request_id": "''", "started_at": _AT, "finished_at": _AT, "heartbeat_at": _AT,
        "record": _RUN,
    }),
    "versions": (0, {
        "model": f"'{MODEL}'", "version": "n", "created_at": _AT, "run_id": "''", "snapshot_id": "'s' || n",
        "manifest": _MANIFEST, "evaluation": "'{}'", "decision": "'{}'", "deleted_at": _AT,
    }),
    "history": (0, {
        "position": "n", "model": f"'{MODEL}'", "action": "1", "to_version": "n", "generation": "n",
        "record": _CHANGE,
    }),
}  # fmt: skip


_REVIEW_ITEM = {
    "item_id": f"'w' || {_DIGEST}", "reason": "1 + n % 3", "origin": "'query'",
    "score": f"{_DIGEST} / 4294967296.0", "at": _AT, "text": f"'unsure ' || {_DIGEST} || ' ' || {_TEXT}",
    "believed": _LABEL, "confidence": "0.4", "labels": "('[]')AS_JSON", "query_id": "'w' || n",
}  # fmt: skip
# Per cent signs are no places of parameters.
_AS_IT_IS = {"no_parameters": True}


def fill(database: Database, former: int, size: int) -> None:
    """Add rows until there are `size` statements, and as many decisions, runs, versions and history entries.

    Only the newest versions are there; the others were deleted. `former` is the size before, 0 for an empty database.
    """
    queries = size + MORE_QUERIES
    with database.write() as connection:
        if database.is_embedded:
            # The default of 2 MB is for the product; rows in the order of no index would go to disk again and again.
            connection.exec_driver_sql("PRAGMA cache_size=-400000")
        else:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        for name, (more, values) in _ROWS.items():
            used = last_position(connection, name) if name in COUNTERS else 0
            _insert(database, connection, name, values, max(former + more if former else 0, used) + 1, size + more)
        waiting = connection.scalar(select(func.count()).select_from(review_items)) or 0
        _insert(database, connection, "review_items", _REVIEW_ITEM, waiting + 1, min(size, MOST_WAITING))
        for statement in (
            f"UPDATE counters SET value = {size} WHERE name IN ('{FEEDBACK}', '{HISTORY}') AND value < {size}",
            f"UPDATE counters SET value = {queries} WHERE name = '{QUERIES}' AND value < {queries}",
            "UPDATE versions SET deleted_at = 1 WHERE deleted_at IS NULL",
            f"UPDATE versions SET deleted_at = NULL WHERE version = 1 OR version > {size - NEWEST_VERSIONS}",
            f"UPDATE versions SET manifest = '{_champion(size)}' WHERE version = 1",
        ):
            connection.exec_driver_sql(statement, execution_options=_AS_IT_IS)
    if not database.is_embedded:
        # The server does this by itself a minute later.
        with database.write() as connection:
            connection.exec_driver_sql("ANALYZE")


def write_alias(models: Path) -> None:
    """Make version 1 the champion."""
    folder = models / MODEL
    folder.mkdir(parents=True)
    alias = pb.ChampionAlias(version=1, generation=1)
    alias.promoted_at.FromMicroseconds(BEGIN)
    (folder / ALIAS_FILE).write_text(to_json(alias))


def _champion(size: int) -> str:
    manifest = pb.Manifest(model=MODEL, version=1)
    manifest.snapshot.feedback_records = size - UNSEEN
    manifest.snapshot.collected_at.GetCurrentTime()
    return to_json(manifest, indent=None)


def _insert(
    database: Database, connection: Connection, table: str, values: Mapping[str, str], first: int, last: int
) -> None:
    if first > last:
        return
    as_json = "" if database.is_embedded else "::json"
    columns = ", ".join(value.replace("AS_JSON", as_json) for value in values.values())
    connection.exec_driver_sql(
        f"WITH RECURSIVE numbers(n) AS (SELECT CAST({first} AS BIGINT) UNION ALL SELECT n + 1 FROM numbers "
        f"WHERE n < {last}) INSERT INTO {table} ({', '.join(values)}) SELECT {columns} FROM numbers",
        execution_options=_AS_IT_IS,
    )
