"""A repository in a folder that every process sees: models/<model>."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from services.language.names import MANIFEST_FILE
from services.repository.disk import (
    adding_folder,
    list_leftovers,
    remove_folder,
    remove_leftovers,
    replace_file,
    replacing,
    write_synced,
)
from services.repository.errors import Changed, DamagedVersion, RepositoryUnavailable, VersionExists, VersionMissing
from services.repository.manifests import check_file, read_checksums
from services.repository.repository import LEFTOVER_AFTER, Stored, check_name, version_number

# Whoever swaps a small file holds a lock on this one.
LOCK_FILE = ".swapping"
# How long to wait for another process that swaps. One that was stopped in the middle of it keeps the others waiting.
LOCK_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 0.01


class FolderRepository:
    """A repository in a folder. The interface says what its methods do."""

    def __init__(self, folder: Path, leftover_after: timedelta = LEFTOVER_AFTER) -> None:
        self._folder = folder
        self._leftover_seconds = leftover_after.total_seconds()

    def versions(self) -> list[int]:
        with folder_errors("list the versions"):
            if not self._folder.is_dir():
                return []
            names = [path.name for path in self._folder.iterdir()]
            numbers = [version_number(name) for name in names if (self._folder / name / MANIFEST_FILE).is_file()]
        return sorted((number for number in numbers if number), reverse=True)

    def folder_of(self, version: int) -> Path:
        folder = self._folder / str(version)
        with folder_errors(f"read version {version}"):
            if version < 1 or not folder.is_dir():
                raise VersionMissing(version)
        return folder

    def add_version(self, number: int, files: Mapping[str, bytes]) -> None:
        with folder_errors(f"write version {number}"):
            try:
                with adding_folder(self._folder / str(number)) as unfinished:
                    for name, content in files.items():
                        write_synced(unfinished / name, content)
            except FileExistsError as error:
                raise VersionExists(number) from error

    def delete_version(self, number: int) -> None:
        with folder_errors(f"delete version {number}"):
            remove_folder(self._folder / str(number))

    def check_version(self, number: int) -> None:
        try:
            manifest = (self.folder_of(number) / MANIFEST_FILE).read_bytes()
        except OSError as error:
            raise DamagedVersion(number, f"{MANIFEST_FILE} cannot be read") from error
        for listed in read_checksums(number, manifest).values():
            with folder_errors(f"read version {number}"):
                check_file(number, listed, self._folder / str(number) / listed.path)

    def unfinished(self) -> list[str]:
        with folder_errors("list the repository"):
            return [path.name for path in list_leftovers(self._folder, self._leftover_seconds)]

    def remove_unfinished(self) -> None:
        remove_leftovers(self._folder, self._leftover_seconds)

    def read(self, name: str) -> Stored | None:
        with folder_errors(f"read {name}"):
            try:
                content = self._path(name).read_bytes()
            except FileNotFoundError:
                return None
        return Stored(content, _tag_of(content))

    def swap(self, name: str, content: bytes, tag: str | None) -> str:
        with folder_errors(f"write {name}"), self._swapping_alone(name):
            before = self.read(name)
            if tag != (before.tag if before else None):
                raise Changed(name)
            replace_file(self._path(name), content)
        return _tag_of(content)

    def put_file(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        path = self._path(name)
        with folder_errors(f"write {name}"), replacing(path) as temporary, temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())

    def open_file(self, name: str) -> BinaryIO | None:
        path = self._path(name)
        with folder_errors(f"read {name}"), contextlib.suppress(FileNotFoundError):
            return path.open("rb")
        return None

    def list_files(self, folder: str) -> list[str]:
        with folder_errors(f"list {folder}"):
            paths = self._path(folder).glob("**/[!.]*")
            written_at = {path: _written_at(path) for path in paths if path.is_file()}
        newest_first = sorted(written_at, key=lambda path: written_at[path], reverse=True)
        return [path.relative_to(self._folder).as_posix() for path in newest_first]

    def delete_half_written(self, folder: str, older_than_seconds: float = 0.0) -> None:
        before = time.time() - older_than_seconds
        with folder_errors(f"delete half-written files in {folder}"):
            for path in self._path(folder).glob(".*"):
                if _written_at(path) <= before:
                    path.unlink(missing_ok=True)

    def delete_file(self, name: str) -> None:
        with folder_errors(f"delete {name}"):
            self._path(name).unlink(missing_ok=True)

    def last_read(self, name: str) -> bytes | None:
        return None

    def copies(self) -> list[int]:
        return []

    def drop_copy(self, version: int) -> None:
        pass

    @contextlib.contextmanager
    def _swapping_alone(self, name: str) -> Iterator[None]:
        """Keep other processes and threads from swapping meanwhile: comparing and renaming are two steps.

        A lease in a database cannot do this, because a process that pauses between the steps loses it unnoticed. This
        lock is freed by the system when its holder dies.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        given_up_at = time.monotonic() + LOCK_SECONDS
        descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not _try_lock(descriptor):
                if time.monotonic() >= given_up_at:
                    raise RepositoryUnavailable(f"cannot write {name}: another process is writing it; try again")
                time.sleep(LOOK_AGAIN_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        return self._folder / check_name(name)


@contextlib.contextmanager
def folder_errors(doing: str) -> Iterator[None]:
    """Turn what the system refuses inside the block into RepositoryUnavailable, "cannot <doing>: <why>"."""
    try:
        yield
    except OSError as error:
        raise RepositoryUnavailable(f"cannot {doing}: {error.strerror or type(error).__name__}") from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written_at(path: Path) -> float:
    """Return the time of the last change in seconds since 1970; 0 for a file that was deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _tag_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
