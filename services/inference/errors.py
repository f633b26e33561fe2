"""What can go wrong while serving. Exceptions carry facts; `status.py` gives each its gRPC status.

InferenceError
├── InvalidQuery            a field of the request cannot be used
├── ModelVersionNotFound    the registry has no such version
├── ModelRejected           a version failed a check and was not loaded
├── ReloadInProgress        another reload is going on
├── StaleGeneration         a reload belongs to a change that a newer one has overtaken
├── NothingLoaded           the registry has no champion to reload
└── BrokenData              taxonomy or catalogue cannot be read (at start-up only)
"""


class InferenceError(Exception):
    """Base of everything this service raises on purpose."""


class InvalidQuery(InferenceError):
    """A field of the request cannot be used."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ModelVersionNotFound(InferenceError):
    """The registry has no such version."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the registry has no version {version}; list the versions to see which it has")
        self.version = version


class ModelRejected(InferenceError):
    """A version failed a check before the swap; the version that was serving still serves."""

    def __init__(self, version: int, check: str, problem: str) -> None:
        super().__init__(f"version {version} failed the {check} check: {problem}; the serving version stays")
        self.version = version
        self.check = check


class ReloadInProgress(InferenceError):
    """Another reload is going on."""

    def __init__(self) -> None:
        super().__init__("another reload is going on; try again when it has ended")


class StaleGeneration(InferenceError):
    """A reload belongs to a change of the champion that a newer one has overtaken; nothing was swapped."""

    def __init__(self, asked: int, followed: int) -> None:
        super().__init__(
            f"generation {asked} is older than {followed}, which this replica has followed; "
            "send the champion alias's present generation, or 0"
        )
        self.asked = asked
        self.followed = followed


class NothingLoaded(InferenceError):
    """A reload of the champion was asked for and the registry names none."""

    def __init__(self) -> None:
        super().__init__("the registry has no champion yet; train a model or name a version")


class BrokenData(InferenceError):
    """The taxonomy or the catalogue cannot be read."""
