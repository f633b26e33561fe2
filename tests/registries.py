"""Helpers around a model registry on disk."""

from moodfood.registry.v1 import manifest_pb2

from services.trainer.registry.registry import ModelRegistry

MODEL = "small"


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
