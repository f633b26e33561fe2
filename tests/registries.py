"""Helpers around a model registry whose database is a file beside the models."""

import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path

from google.protobuf import json_format
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.database.leases import Leases
from services.trainer.database.migrate import migrate
from services.trainer.registry.registry import ModelRegistry

MODEL = "small"


@cache
def empty_database() -> bytes:
    """The content of a SQLite file with all tables and no rows."""
    folder = Path(tempfile.mkdtemp())
    database = Database(file_url(folder / DATABASE_FILE))
    migrate(database)
    database.close()
    content = (folder / DATABASE_FILE).read_bytes()
    shutil.rmtree(folder)
    return content


def database_beside(models: Path) -> Database:
    """Return the database in a folder of models, which is made when there is none."""
    path = models / DATABASE_FILE
    if not path.exists():
        models.mkdir(parents=True, exist_ok=True)
        path.write_bytes(empty_database())
    return Database(file_url(path))


def open_registry(models: Path, model: str = MODEL, keep_versions: int = 10) -> ModelRegistry:
    return ModelRegistry(models, model, keep_versions, database_beside(models))


def leases_of(registry: ModelRegistry) -> Leases:
    return Leases(database_beside(registry.folder.parent))


def history_of(registry: ModelRegistry) -> list[pb.HistoryEntry]:
    """Return the history, oldest entry first."""
    return list(registry.history.entries(1000).values())[::-1]


def version_files(version: int, learned: int = 0, snapshot: str = "") -> dict[str, bytes]:
    """Return the files of a version that passed the gate, with a graph of a few bytes.

    It learned the snapshot, with the feedback up to the position `learned`.
    """
    graph = f"graph {version}".encode()
    listed = pb.FileChecksum(path="model.onnx", size_bytes=len(graph), sha256=hashlib.sha256(graph).hexdigest())
    manifest = pb.Manifest(
        model=MODEL, version=version, files=[listed], snapshot=pb.Snapshot(id=snapshot, feedback_records=learned)
    )
    reports = {"evaluation.json": pb.EvaluationReport(), "decision.json": pb.PromotionDecision(promoted=True)}
    messages = {"manifest.json": manifest, **reports}
    return {name: json_format.MessageToJson(message).encode() for name, message in messages.items()} | {
        "model.onnx": graph
    }


def promote(registry: ModelRegistry, version: int, reason: str = "test") -> pb.ChampionAlias:
    """Make a version the champion without telling any replica."""
    return registry.alias.move(
        version,
        registry.alias.next_generation(),
        pb.HISTORY_ACTION_PROMOTED,
        "test",
        reason,
        expected=registry.alias.version(),
    )
