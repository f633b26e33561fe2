"""Moves what earlier releases kept in files into the database.

    records and the names of their files, in one transaction -> versions -> snapshots -> queries -> files put aside

Each step can be repeated. A call that was killed is continued by the next one: the files whose records are stored are
known by their SHA-256, and they are put aside only when everything else is done.
"""

from pathlib import Path

from sqlalchemy import Connection, select

from services.trainer.database.database import Database, database_time, lock_counters
from services.trainer.database.tables import COUNTERS, moved_files
from services.trainer.dataset.snapshot_retention import convert_snapshots
from services.trainer.errors import BrokenData
from services.trainer.feedback.query_store import QueryStore
from services.trainer.graphs.version import LearnedWords
from services.trainer.registry.registry import ModelRegistry
from services.trainer.upkeep.old_files import (
    QUERIES,
    SNAPSHOTS,
    VERSIONS,
    Folders,
    MoveReport,
    OldFile,
    Reading,
    find_experiment,
    find_old_files,
    hash_file,
    put_aside,
    put_aside_left_overs,
)
from services.trainer.upkeep.old_queries import LOG_NAME, store_queries
from services.trainer.upkeep.old_records import store_experiments, store_records


def move_old_files(
    database: Database, folders: Folders, model: str, keep_queries: int, models_url: str = ""
) -> MoveReport:
    """Move the records of all old files into the database, and return what was read. No trainer may be running.

    Args:
        database: the trainer's database, with all tables.
        folders: where the old files are.
        model: name of the model whose queries are in the query log.
        keep_queries: how many queries the database keeps.
        models_url: address of the repository; empty for the folder.

    Raises:
        BrokenData: a file has changed since its records were stored. Nothing was stored.
        StorageFailed: the disk or the database refused. Call it again; what was stored stays.

    """
    report, files = MoveReport(), find_old_files(folders)
    if not files:
        return report
    models = sorted({file.model for file in files if file.model} | {model})
    with database.write() as connection:
        lock_counters(connection, *COUNTERS)
        _store(connection, files, report)
        for name in models:
            if (experiment := find_experiment(folders, name)) is not None:
                store_experiments(connection, Reading(experiment, report))
    for name in models:
        registry = ModelRegistry(folders.models, name, 1, database, models_url)
        _adopt_versions(registry, report)
        _convert_snapshots(registry, folders, report)
    _move_queries(
        database, folders, ModelRegistry(folders.models, model, 1, database, models_url), keep_queries, report
    )
    for file in files:
        put_aside(file.path, folders, file.name)
        report.files += 1
    put_aside_left_overs(folders)
    return report


def _store(connection: Connection, files: list[OldFile], report: MoveReport) -> None:
    """Store the records of the files that were not stored before, and remember the files."""
    rows = connection.execute(select(moved_files.c.path, moved_files.c.sha256))
    known = {row.path: bytes(row.sha256) for row in rows}
    for file in files:
        if file.name in known and known[file.name] != hash_file(file):
            raise BrokenData(
                f"the records of {file.name} are in the database already, but the file has changed since; "
                "put the file elsewhere, or begin again with an empty database"
            )
    for file in files:
        if file.name not in known:
            reading, before = Reading(file, report), report.stored[file.kind]
            store_records(connection, reading)
            _remember(connection, file.name, reading.sha256, report.stored[file.kind] - before)


def _remember(connection: Connection, name: str, sha256: bytes, rows: int) -> None:
    connection.execute(moved_files.insert().values(path=name, sha256=sha256, rows=rows, at=database_time(connection)))


def _adopt_versions(registry: ModelRegistry, report: MoveReport) -> None:
    """Give every version a row, with what gate and rehearsal said of it."""
    before = len(registry.records.list_there())
    registry.versions.repair()
    there = len(registry.records.list_there())
    report.read[VERSIONS] += there
    report.stored[VERSIONS] += there - before


def _convert_snapshots(registry: ModelRegistry, folders: Folders, report: MoveReport) -> None:
    def move(path: Path) -> None:
        put_aside(path, folders, f"models/{registry.model}/snapshots/{path.name}")
        report.files += 1

    converted = convert_snapshots(registry.folder, registry.repository, move)
    report.read[SNAPSHOTS] += converted.count + len(converted.damaged)
    report.stored[SNAPSHOTS] += converted.count
    for name in converted.damaged:
        report.refuse(SNAPSHOTS, f"models/{registry.model}/snapshots/{name}.jsonl", "is damaged; it stays where it is")


def _move_queries(database: Database, folders: Folders, registry: ModelRegistry, keep: int, report: MoveReport) -> None:
    """Store the queries of the log, once: what inference adds to it later reaches the trainer in another way."""
    with database.read() as connection:
        if connection.scalar(select(moved_files.c.path).where(moved_files.c.path == LOG_NAME)) is not None:
            return
    store = QueryStore(database, LearnedWords(registry).read, keep)
    sha256 = store_queries(store, folders, keep, report)
    with database.write() as connection:
        _remember(connection, LOG_NAME, sha256, report.stored[QUERIES])
