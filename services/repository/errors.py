"""What can go wrong with a repository. The texts are for callers: they name no address and no credentials.

RepositoryError
├── VersionMissing          the repository has no such version
├── VersionExists           the number is taken
├── DamagedVersion          a file of the version is missing or differs from the manifest
├── Changed                 somebody else wrote the file first
└── RepositoryUnavailable   the disk or the object store refused, or gave no answer in time
"""


class RepositoryError(Exception):
    """Base class of every exception that a repository raises on purpose."""


class VersionMissing(RepositoryError):
    """The repository has no such version."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the repository has no version {version}")
        self.version = version


class VersionExists(RepositoryError):
    """The number belongs to a version, or to an upload that has not ended."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the number {version} is taken; use another one")
        self.version = version


class DamagedVersion(RepositoryError):
    """A file of the version is missing or differs from the manifest. Nothing of it was kept; a later call tries again.

    Attributes:
        version: the version.
        problem: the file and what is wrong with it.

    """

    def __init__(self, version: int, problem: str) -> None:
        super().__init__(f"version {version} is damaged in the repository: {problem}")
        self.version = version
        self.problem = problem


class Changed(RepositoryError):
    """The file is not the one that the caller read. Nothing was written; read it again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"somebody else has changed {name}; read it again")
        self.name = name


class RepositoryUnavailable(RepositoryError):
    """The disk or the object store refused, or gave no answer in time. The text says what failed and why."""
