"""The table from each exception of the inference service to its gRPC status and error reason."""

from grpc import StatusCode

from services.inference import errors
from services.transport.errors import ErrorTable, Row

ERROR_TABLE: ErrorTable = {
    errors.InvalidQuery: Row(
        StatusCode.INVALID_ARGUMENT,
        "INVALID_QUERY",
        violations=lambda error: {error.field: error.problem},
    ),
    errors.ModelVersionNotFound: Row(
        StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND", facts=lambda error: {"version": str(error.version)}
    ),
    errors.ModelRejected: Row(
        StatusCode.FAILED_PRECONDITION,
        "MODEL_REJECTED",
        facts=lambda error: {"version": str(error.version), "check": error.check},
    ),
    errors.ReloadInProgress: Row(StatusCode.ABORTED, "RELOAD_IN_PROGRESS"),
    errors.StaleGeneration: Row(
        StatusCode.FAILED_PRECONDITION, "STALE_GENERATION", facts=lambda error: {"followed": str(error.followed)}
    ),
    errors.NothingLoaded: Row(StatusCode.UNAVAILABLE, "NOTHING_LOADED"),
    errors.RegistryUnavailable: Row(StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE"),
    errors.StorageFailed: Row(StatusCode.UNAVAILABLE, "STORAGE_FAILED"),
    errors.BrokenData: Row(StatusCode.FAILED_PRECONDITION, "BROKEN_DATA"),
}
