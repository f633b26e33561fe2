"""Every exception that the inference service raises on purpose. `error_table.py` gives each of them its gRPC status.

The text of an exception reaches the caller. It says what happened and what to do.

InferenceError
├── InvalidQuery            a field of the request is not valid
├── ModelVersionNotFound    the registry has no such version
├── ModelRejected           a version failed a check and was not loaded
├── ReloadInProgress        another reload is in progress
├── StaleGeneration         the reload has an older generation than one that the replica has followed
├── NothingLoaded           the registry has no champion to load
├── RegistryUnavailable     the registry cannot be read now
├── StorageFailed           the query log or the spool cannot be read or written
└── BrokenData              the taxonomy or the catalogue cannot be read (only at start-up)
"""


class InferenceError(Exception):
    """Base class of every exception that the inference service raises on purpose."""


class InvalidQuery(InferenceError):
    """A field of the request is not valid.

    Attributes:
        field: name of the field, such as "texts[0]".
        problem: what is wrong with it and what to send instead; a sentence that follows the name of the field.

    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ModelVersionNotFound(InferenceError):
    """The registry has no such version."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the registry has no version {version}; list the versions to see their numbers")
        self.version = version


class ModelRejected(InferenceError):
    """A version failed a check before the swap. The version that was serving still serves.

    Attributes:
        version: the version that failed.
        check: name of the check, such as "checksum" or "probe".

    """

    def __init__(self, version: int, check: str, problem: str) -> None:
        super().__init__(f"version {version} failed the {check} check: {problem}; the serving version did not change")
        self.version = version
        self.check = check


class ReloadInProgress(InferenceError):
    """Another reload is in progress."""

    def __init__(self) -> None:
        super().__init__("another reload is in progress; try again in a few seconds")


class StaleGeneration(InferenceError):
    """The reload has an older generation than one that this replica has followed. Nothing was swapped.

    Attributes:
        asked: generation of the reload.
        followed: generation of the champion alias that this replica has followed.

    """

    def __init__(self, asked: int, followed: int) -> None:
        super().__init__(
            f"generation {asked} is older than generation {followed}, which this replica already follows; "
            "send the present generation of the champion alias, or 0"
        )
        self.asked = asked
        self.followed = followed


class NothingLoaded(InferenceError):
    """The reload asked for the champion, and the registry has none."""

    def __init__(self) -> None:
        super().__init__("the registry has no champion yet; train a model first, or send the number of a version")


class RegistryUnavailable(InferenceError):
    """The registry cannot be read now. The version that was serving still serves. The text says why."""


class StorageFailed(InferenceError):
    """The query log or the spool cannot be read or written. What was done before stays done."""

    def __init__(self, doing: str, error: OSError) -> None:
        super().__init__(f"cannot {doing}: {error.strerror or 'the disk refuses'}; free the disk and repeat the call")


class BrokenData(InferenceError):
    """The taxonomy or the catalogue cannot be read. The text names the file."""
