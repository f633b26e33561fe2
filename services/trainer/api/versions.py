"""Translates the versions of the registry into the answers of ListModelVersions and GetEvaluation."""

import contextlib

from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import ModelVersionNotFound, NoChampion
from services.trainer.registry.registry import ModelRegistry
from services.trainer.registry.version_records import VersionRecord

MOST_VERSIONS = 1000


def list_versions(registry: ModelRegistry) -> pb.ListModelVersionsResponse:
    """Return the newest versions, newest first, and the alias.

    It reads files and the database, so call it off the event loop.
    """
    champion = registry.alias.read()
    versions = []
    for record in registry.versions.list_newest(MOST_VERSIONS):
        with contextlib.suppress(ModelVersionNotFound):
            versions.append(_describe(record, champion.version if champion else 0))
    return pb.ListModelVersionsResponse(model=registry.model, versions=versions, champion=champion)


def read_evaluation(registry: ModelRegistry, version: int) -> pb.GetEvaluationResponse:
    """Return the reports of a version, the champion for 0. Call it off the event loop.

    Raises:
        NoChampion: the champion was asked for and there is none.
        ModelVersionNotFound: there was never such a version.

    """
    version = version or registry.alias.version()
    if version == 0:
        raise NoChampion
    return pb.GetEvaluationResponse(
        version=version,
        evaluation=registry.versions.evaluation(version),
        decision=registry.versions.decision(version),
    )


def _describe(record: VersionRecord, champion_version: int) -> pb.ModelVersion:
    manifest, evaluation = record.manifest, record.evaluation
    return pb.ModelVersion(
        version=record.version,
        created_at=manifest.created_at,
        state=_state(record.version, champion_version, record.decision),
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
