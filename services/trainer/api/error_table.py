"""The table from each exception of the trainer to its gRPC status and error reason."""

from grpc import StatusCode

from services.trainer import errors
from services.transport.errors import ErrorTable, Row

ERROR_TABLE: ErrorTable = {
    errors.InvalidRequest: Row(
        StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        violations=lambda error: {error.field: error.problem},
    ),
    errors.ReviewItemNotFound: Row(
        StatusCode.NOT_FOUND, "REVIEW_ITEM_NOT_FOUND", facts=lambda error: {"item_id": error.item_id[:80]}
    ),
    errors.UnknownQuery: Row(StatusCode.NOT_FOUND, "UNKNOWN_QUERY", facts=lambda error: {"query_id": error.query_id}),
    errors.TrainingRunNotFound: Row(
        StatusCode.NOT_FOUND, "TRAINING_RUN_NOT_FOUND", facts=lambda error: {"run_id": error.run_id}
    ),
    errors.ModelVersionNotFound: Row(
        StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND", facts=lambda error: {"version": str(error.version)}
    ),
    errors.SnapshotNotFound: Row(
        StatusCode.NOT_FOUND, "SNAPSHOT_NOT_FOUND", facts=lambda error: {"snapshot_id": error.snapshot_id[:80]}
    ),
    errors.NoChampion: Row(StatusCode.FAILED_PRECONDITION, "NO_CHAMPION"),
    errors.NoFormerChampion: Row(StatusCode.FAILED_PRECONDITION, "NO_FORMER_CHAMPION"),
    errors.VersionRefused: Row(
        StatusCode.FAILED_PRECONDITION,
        "VERSION_REFUSED",
        facts=lambda error: {"version": str(error.version), "rules": error.rules},
    ),
    errors.ReplicaRejected: Row(
        StatusCode.FAILED_PRECONDITION, "REPLICA_REJECTED", facts=lambda error: {"target": error.target}
    ),
    errors.NoReplicaReached: Row(
        StatusCode.UNAVAILABLE, "NO_REPLICA_REACHED", facts=lambda error: {"targets": error.targets}
    ),
    errors.RetrainInProgress: Row(
        StatusCode.ABORTED, "RETRAIN_IN_PROGRESS", facts=lambda error: {"operation": error.operation}
    ),
    errors.ExperimentInProgress: Row(
        StatusCode.ABORTED, "EXPERIMENT_IN_PROGRESS", facts=lambda error: {"experiment_id": error.experiment_id}
    ),
    errors.NoExperiment: Row(StatusCode.FAILED_PRECONDITION, "NO_EXPERIMENT"),
    errors.PromotionInProgress: Row(StatusCode.ABORTED, "PROMOTION_IN_PROGRESS"),
    errors.ChampionChanged: Row(
        StatusCode.ABORTED,
        "CHAMPION_CHANGED",
        facts=lambda error: {"expected": str(error.expected), "serving": str(error.serving)},
    ),
    errors.NotSupported: Row(StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED"),
    errors.StorageFailed: Row(StatusCode.UNAVAILABLE, "STORAGE_FAILED"),
    errors.StageFailed: Row(StatusCode.FAILED_PRECONDITION, "STAGE_FAILED"),
    errors.BrokenData: Row(StatusCode.FAILED_PRECONDITION, "BROKEN_DATA"),
}
