"""Puts a backup in the place of the embedded database, while no trainer runs.

A backup is older than what goes on around it: the models, the replicas, and what people asked to be deleted. So the
backup is first prepared in a file of its own, and then takes the place of the database in one transaction:

- No lease of that time is held any more, and no experiment of that time is running.
- A generation far above every known one is pending in each model. The next trainer confirms the champion under a higher
  one, and so every replica comes to it, whatever it has followed since the backup.
- What the replaced database has given away is not given away again: version numbers and positions.
- What was erased since the backup is erased from it, too.

The trainer does the rest when it starts (`registry/registry.py`): it adopts versions that the database does not know,
and completes the move of the alias that it finds.
"""

import contextlib
import shutil
import sqlite3
import uuid
from dataclasses import dataclass
from pathlib import Path

from moodfood.registry.v1.manifest_pb2 import HISTORY_ACTION_REASSERTED

from services.repository.disk import sync_file
from services.trainer.database.database import Database, file_url
from services.trainer.database.migrate import migrate
from services.trainer.database.sqlite_file import PRIVATE, check_unused, replace_content, sqlite_errors
from services.trainer.database.tables import COUNTERS, ERASURES, RUN_COUNTERS
from services.trainer.registry.alias import SKIPPED_GENERATIONS
from services.trainer.registry.moves import PENDING
from services.trainer.upkeep.backup import Backup, check_backup, find_file

_POSITIONS = tuple(name for name in COUNTERS if name not in RUN_COUNTERS)
# What the replaced database knows and the backup does not. `former` is the replaced database.
_CARRY_OVER = (
    """
    INSERT OR IGNORE INTO versions
        (model, version, created_at, run_id, snapshot_id, manifest, evaluation, decision, deleted_at)
    SELECT model, max(version), 0, '', '', '', '', '', CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)
    FROM former.versions GROUP BY model
    """,
    """
    INSERT OR IGNORE INTO alias_moves (model, generation, version, expected, action, state, at)
    SELECT model, max(generation), 0, 0, 0, 'taken_back', 0 FROM
        (SELECT model, generation FROM former.alias_moves UNION ALL SELECT model, generation FROM former.history)
    GROUP BY model
    """,
)
# The order matters: texts and queries are found by the new erasures before the age limit of the backup is replaced.
_ERASE_AGAIN = (
    """
    CREATE TEMP TABLE erased_texts AS
    SELECT DISTINCT word.value AS text_key, erased.queries_until AS until
    FROM former.erasures AS erased, json_each(erased.text_keys) AS word WHERE erased.position > :since
    """,
    "CREATE INDEX temp.ix_erased_texts ON erased_texts (text_key)",
    "CREATE TEMP TABLE erased_ids AS SELECT query_id FROM former.erased_queries WHERE erasure > :since",
    """
    DELETE FROM feedback WHERE EXISTS
        (SELECT 1 FROM erased_texts AS gone WHERE gone.text_key = feedback.text_key AND feedback.at <= gone.until)
    """,
    """
    DELETE FROM queries WHERE query_id IN (SELECT query_id FROM erased_ids) OR EXISTS
        (SELECT 1 FROM erased_texts AS gone WHERE gone.text_key = queries.text_key AND queries.at <= gone.until)
    """,
    """
    DELETE FROM review_items WHERE query_id IN (SELECT query_id FROM erased_ids)
        OR item_id IN (SELECT text_key FROM erased_texts)
    """,
    "DELETE FROM review_decisions WHERE item_id IN (SELECT text_key FROM erased_texts)",
    """
    DELETE FROM feedback WHERE at < (SELECT max(before) FROM former.erasures WHERE position > :since AND before > 0)
    """,
    "DELETE FROM queries WHERE at < (SELECT max(before) FROM former.erasures WHERE position > :since)",
    "DELETE FROM review_items WHERE at < (SELECT max(before) FROM former.erasures WHERE position > :since)",
    """
    DELETE FROM erasures WHERE before > 0 AND EXISTS
        (SELECT 1 FROM former.erasures WHERE position > :since AND before > 0)
    """,
    """
    INSERT INTO erasures (position, queries_until, before, text_keys)
    SELECT position, queries_until, before, text_keys FROM former.erasures WHERE position > :since
    """,
    """
    INSERT OR IGNORE INTO erased_queries (query_id, erasure)
    SELECT query_id, erasure FROM former.erased_queries WHERE erasure > :since
    """,
    """
    INSERT OR IGNORE INTO unfinished_erasures (erasure, number, text)
    SELECT erasure, number, text FROM former.unfinished_erasures WHERE erasure > :since
    """,
)


@dataclass(frozen=True)
class Restored:
    """What `restore` did.

    Attributes:
        backup: the backup.
        kept: where the replaced database is now; None when there was none.
        erasures: how many erasures were made since the backup, and were made in it again; None when the replaced
            database cannot be read, so that nobody knows.

    """

    backup: Backup
    kept: Path | None
    erasures: int | None


def restore(database: Database, backup: Path) -> Restored:
    """Put a backup in the place of the database. A kill at any moment leaves the one or the other.

    Args:
        database: the trainer's database. Nobody may use it: stop the trainer first.
        backup: what `back_up` wrote. It is only read.

    Raises:
        NotSupported: the database is a server.
        BrokenData: the backup is not there, is not ours, is damaged, or is newer than this program.
        StorageFailed: a process has the database open, or a disk refused. The database is as it was.

    """
    path = find_file(database, "restore it with pg_restore")
    check_unused(path)
    found = check_backup(backup)
    with sqlite_errors(f"restore {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            staged.touch(PRIVATE)
            shutil.copyfile(backup, staged)
            erasures = _prepare(staged, path)
            kept = replace_content(path, staged)
        finally:
            for leftover in path.parent.glob(f"{staged.name}*"):
                leftover.unlink(missing_ok=True)
    return Restored(found, kept, erasures)


def _prepare(staged: Path, former: Path) -> int | None:
    """Make a copy of a backup fit for the present, and return how many erasures were made again."""
    opened = Database(file_url(staged))
    migrate(opened)
    opened.close()
    erasures = _carry_over(staged, former) if former.exists() else None
    with contextlib.closing(sqlite3.connect(staged, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE leases SET expires_at = 0")
        connection.execute(
            "UPDATE experiments SET running = 0, record = json_set(record, '$.running', json('false'), "
            "'$.reason', 'the database was restored from a backup') WHERE running"
        )
        connection.execute(
            """
            INSERT INTO alias_moves (model, generation, version, expected, action, state, at)
            SELECT model, max(generation) + ?, 0, 0, ?, ?, 0
            FROM (SELECT model, generation FROM alias_moves UNION ALL SELECT model, generation FROM history)
            GROUP BY model
            """,
            (SKIPPED_GENERATIONS, HISTORY_ACTION_REASSERTED, PENDING),
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    sync_file(staged)
    return erasures


def _carry_over(staged: Path, former: Path) -> int | None:
    """Take over from the replaced database what must not be forgotten, in one transaction.

    Returns the number of erasures; None when the replaced database cannot be read.
    """
    with contextlib.closing(sqlite3.connect(staged, isolation_level=None)) as connection:
        try:
            connection.execute("ATTACH ? AS former", (str(former),))
            connection.execute("BEGIN")
            (since,) = connection.execute("SELECT value FROM counters WHERE name = ?", (ERASURES,)).fetchone()
            (count,) = connection.execute(
                "SELECT count(*) FROM former.erasures WHERE position > ?", (since,)
            ).fetchone()
            for statement in (*_CARRY_OVER, *(_ERASE_AGAIN if count else ())):
                connection.execute(statement, {"since": since} if ":since" in statement else {})
            for name in _POSITIONS:
                connection.execute(
                    "UPDATE counters SET value = max(value, coalesce((SELECT value FROM former.counters "
                    "WHERE name = :name), 0)) WHERE name = :name",
                    {"name": name},
                )
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if "locked" in str(error) or "full" in str(error):
                raise
            return None
    return int(count)
