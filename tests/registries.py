"""Helpers around a model registry whose database is a file beside the models."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2

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


def history_of(registry: ModelRegistry) -> list[manifest_pb2.HistoryEntry]:
    """Return the history, oldest entry first."""
    return list(registry.history.entries(1000).values())[::-1]


def promote(registry: ModelRegistry, version: int, reason: str = "test") -> manifest_pb2.ChampionAlias:
    """Make a version the champion without telling any replica."""
    return registry.alias.move(
        version,
        registry.alias.next_generation(),
        manifest_pb2.HISTORY_ACTION_PROMOTED,
        "test",
        reason,
        expected=registry.alias.version(),
    )
