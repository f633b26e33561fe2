"""The interface of a repository: the versions of one model, the small files beside them, and large files.

The layout is the same in a folder and in a bucket. Names are relative to the model's folder, with `/` between parts:

    <version>/manifest.json   and the other files of a version, which are written once and never changed
    champion, experiment      small files that change
    snapshots/<id>.parquet    large files whose name stands for their content, so that they never change
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

# Younger leftovers may belong to a write that is still going on.
LEFTOVER_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class Stored:
    """A small file as it was read. The tag stands for this content; `swap` takes it."""

    content: bytes
    tag: str


class Repository(Protocol):
    """The repository of one model. Calls block; threads may share it.

    Every call can raise RepositoryUnavailable.
    """

    def versions(self) -> list[int]:
        """Return the numbers of the complete versions, newest first."""

    def folder_of(self, version: int) -> Path:
        """Return a local folder with all files of a version. Nobody may change it.

        Raises:
            VersionMissing: there is no such version.
            DamagedVersion: a file that was fetched for it is missing or differs from the manifest.

        """

    def add_version(self, number: int, files: Mapping[str, bytes]) -> None:
        """Add a version: all of its files or none. One of them is manifest.json.

        Raises:
            VersionExists: the number is taken.

        """

    def delete_version(self, number: int) -> None:
        """Delete a version so that nobody sees a part of it. No error if there is none."""

    def check_version(self, number: int) -> None:
        """Read every file of a version that its manifest lists.

        Raises:
            VersionMissing: there is no such version.
            DamagedVersion: a file is missing or differs from the manifest.

        """

    def unfinished(self) -> list[str]:
        """Return the names of what writes that died have left. What is younger than an hour may still be written."""

    def remove_unfinished(self) -> None:
        """Remove what `unfinished` returns."""

    def read(self, name: str) -> Stored | None:
        """Return a small file; None if there is none."""

    def last_read(self, name: str) -> bytes | None:
        """Return a small file as this machine read it last, for when a bucket is away. None for a folder."""

    def swap(self, name: str, content: bytes, tag: str | None) -> str:
        """Replace a small file if it is still the one of the tag, and return the new tag.

        Raises:
            Changed: the file has another content, or, with tag None, there is one.
            RepositoryUnavailable: it is not known whether the file was replaced; read it again.

        """

    def put_file(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Store what `write` writes into an empty file. Readers see all of it or what was there before."""

    def open_file(self, name: str) -> BinaryIO | None:
        """Open a stored file for reading; None if there is none. A bucket leaves no copy of it on this machine."""

    def list_files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; the file that was written last comes first."""

    def delete_half_written(self, folder: str, older_than_seconds: float = 0.0) -> None:
        """Delete what is half-written in a folder. Who is still writing it fails."""

    def delete_file(self, name: str) -> None:
        """Delete a file. No error if there is none."""

    def copies(self) -> list[int]:
        """Return the versions that were fetched and are kept on this machine, newest first; none for a folder."""

    def drop_copy(self, version: int) -> None:
        """Remove the fetched copy of a version from this machine. The version stays in the repository."""


def version_number(name: str) -> int:
    """Return the version that a name stands for; 0 if it stands for none."""
    return int(name) if name.isascii() and name.isdecimal() and name == str(int(name)) else 0


def check_name(name: str) -> str:
    """Return a name as it is. Raises ValueError if it does not stay inside the model's folder."""
    if not all(part not in {"", ".", ".."} for part in name.split("/")):
        raise ValueError(f"{name!r} is no name of a file in the repository")
    return name
