"""Translates the versions of the registry into the answer of ListModelVersions."""

from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import ModelVersionNotFound
from services.trainer.registry.registry import ModelRegistry


def list_versions(registry: ModelRegistry) -> pb.ListModelVersionsResponse:
    """Return every version that can be read, newest first, and the alias.

    It reads files, so call it off the event loop.
    """
    champion = registry.alias.read()
    versions = []
    for number in registry.versions.numbers():
        try:
            versions.append(_describe(registry, number, champion.version if champion else 0))
        except ModelVersionNotFound:
            continue
    return pb.ListModelVersionsResponse(model=registry.model, versions=versions, champion=champion)


def _describe(registry: ModelRegistry, number: int, champion_version: int) -> pb.ModelVersion:
    manifest, evaluation = registry.versions.manifest(number), registry.versions.evaluation(number)
    return pb.ModelVersion(
        version=number,
        created_at=manifest.created_at,
        state=_state(number, champion_version, registry.versions.decision(number)),
        accuracy=evaluation.accuracy,
        macro_f1=evaluation.macro_f1,
        recall_at_3=evaluation.recall_at_3,
        label_count=len(manifest.labels),
        snapshot_id=manifest.snapshot.id,
        training_run=manifest.training_run,
    )


def _state(number: int, champion_version: int, decision: manifest_pb2.PromotionDecision) -> "pb.VersionState.ValueType":
    if number == champion_version:
        return pb.VERSION_STATE_CHAMPION
    return pb.VERSION_STATE_READY if decision.promoted else pb.VERSION_STATE_REFUSED
