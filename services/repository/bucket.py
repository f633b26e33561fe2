"""A repository in a bucket of an object store, with copies of fetched versions in a local folder.

A version is complete, and visible, when its manifest is there: it is written last and deleted first. What is fetched
is checked against the manifest, and the local copy becomes visible at once, by a rename. Of the files beside the
versions there are no local copies: such a file can hold what people said, and must be gone when it is deleted here.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from services.language.names import MANIFEST_FILE
from services.repository.disk import (
    adding_folder,
    remove_folder,
    remove_leftovers,
    replace_file,
    write_synced,
)
from services.repository.errors import Changed, DamagedVersion, RepositoryUnavailable, VersionExists, VersionMissing
from services.repository.folder import FolderRepository, folder_errors
from services.repository.manifests import check_content, check_file, read_checksums
from services.repository.objects import ObjectMissing, Objects, TimeLimits
from services.repository.repository import LEFTOVER_AFTER, Stored, check_name, version_number


class BucketRepository:
    """A repository in a bucket. The interface says what its methods do.

    Args:
        url: `s3://bucket/prefix`; objects are named <prefix>/<model>/<name>.
        model: name of the model.
        cache: folder for the local copies of versions and files; processes may share it.
        limits: how long calls may take.
        leftover_after: the age from which `remove_unfinished` and the next start remove what was left.

    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path,
        limits: TimeLimits = TimeLimits(),  # noqa: B008 - frozen
        leftover_after: timedelta = LEFTOVER_AFTER,
    ) -> None:
        self.url = url
        self._objects = Objects(url, model, limits)
        self._cache = cache
        self._copies = FolderRepository(cache)
        self._leftover_after = leftover_after
        self._intact: set[int] = set()
        self._fetching = threading.Lock()
        remove_leftovers(cache, leftover_after.total_seconds())

    def versions(self) -> list[int]:
        return sorted(self._complete([listed.name for listed in self._objects.list()]), reverse=True)

    def folder_of(self, version: int) -> Path:
        folder = self._cache / str(version)
        with self._fetching:
            if version not in self._intact or not folder.is_dir():
                self._make_copy(version, folder)
                self._intact.add(version)
        return folder

    def add_version(self, number: int, files: Mapping[str, bytes]) -> None:
        # The manifest is what makes the version visible, so it comes last.
        names = [*sorted(files.keys() - {MANIFEST_FILE}), MANIFEST_FILE]
        try:
            for name in names:
                self._objects.put(f"{number}/{name}", files[name], None)
        except Changed as error:
            raise VersionExists(number) from error

    def delete_version(self, number: int) -> None:
        self._objects.delete([f"{number}/{MANIFEST_FILE}"])
        self._objects.delete([listed.name for listed in self._objects.list(str(number))])
        self.drop_copy(number)

    def check_version(self, number: int) -> None:
        stored = self._objects.read(f"{number}/{MANIFEST_FILE}")
        if stored is None:
            raise VersionMissing(number)
        with folder_errors(f"keep version {number}"), tempfile.TemporaryDirectory() as folder:
            self._fetch_files(number, stored.content, Path(folder))

    def unfinished(self) -> list[str]:
        listed, before = self._objects.list(), datetime.now(UTC) - self._leftover_after
        complete = self._complete([each.name for each in listed])
        leftovers: dict[int, list[str]] = {}
        young = set[int]()
        for each in listed:
            number = version_number(each.name.partition("/")[0])
            if number and number not in complete:
                leftovers.setdefault(number, []).append(each.name)
                if each.written_at > before:
                    young.add(number)
        return [name for number, names in leftovers.items() if number not in young for name in names]

    def remove_unfinished(self) -> None:
        self._objects.delete(self.unfinished())

    def read(self, name: str) -> Stored | None:
        stored = self._objects.read(check_name(name))
        if "/" not in name:
            self._keep(self._cache / name, stored)
        return stored

    def last_read(self, name: str) -> bytes | None:
        return _read_or_none(self._cache / check_name(name))

    def swap(self, name: str, content: bytes, tag: str | None) -> str:
        return self._objects.put(check_name(name), content, tag)

    def put_file(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        check_name(name)
        with self._nameless_file() as file:
            with folder_errors(f"write {name}"):
                write(file)
                file.seek(0)
            self._objects.send(name, file)

    def open_file(self, name: str) -> BinaryIO | None:
        check_name(name)
        file = self._nameless_file()
        try:
            with folder_errors(f"read {name}"):
                self._objects.fetch_into(name, file)
                file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, ObjectMissing):
                return None
            raise
        return file

    def list_files(self, folder: str) -> list[str]:
        listed = self._objects.list(check_name(folder))
        return [each.name for each in sorted(listed, key=lambda each: each.written_at, reverse=True)]

    def delete_half_written(self, folder: str, older_than_seconds: float = 0.0) -> None:
        """There is nothing to do: an object is written whole, by one request, or not at all."""

    def delete_file(self, name: str) -> None:
        self._objects.delete([check_name(name)])

    def copies(self) -> list[int]:
        return self._copies.versions()

    def drop_copy(self, version: int) -> None:
        with self._fetching:
            self._intact.discard(version)
            self._copies.delete_version(version)

    def _nameless_file(self) -> BinaryIO:
        """Return a local file that is gone as soon as it is closed or its process has died."""
        with folder_errors("make a temporary file"):
            self._cache.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self._cache)

    def _keep(self, path: Path, stored: Stored | None) -> None:
        # What cannot be kept is only missed if this process ends and the bucket is away.
        with contextlib.suppress(OSError):
            if stored is None:
                path.unlink(missing_ok=True)
            elif _read_or_none(path) != stored.content:
                replace_file(path, stored.content)

    def _make_copy(self, version: int, folder: Path) -> None:
        """Fetch a version, unless an intact copy of it is there from an earlier process."""
        try:
            stored = self._objects.read(f"{version}/{MANIFEST_FILE}")
        except RepositoryUnavailable:
            if _is_intact(folder, version):
                return
            raise
        if stored is None:
            raise VersionMissing(version)
        # A copy can come from another repository that had this number, so it must have the same manifest.
        if _read_or_none(folder / MANIFEST_FILE) == stored.content and _is_intact(folder, version):
            return
        with folder_errors(f"keep version {version}"):
            remove_folder(folder)
            # Another process that shares the folder may have been faster.
            with contextlib.suppress(FileExistsError), adding_folder(folder) as unfinished:
                self._fetch_files(version, stored.content, unfinished)

    def _fetch_files(self, version: int, manifest: bytes, folder: Path) -> None:
        checksums = read_checksums(version, manifest)
        listed = {each.name.removeprefix(f"{version}/") for each in self._objects.list(str(version))}
        for name in sorted(listed | checksums.keys()):
            if name == MANIFEST_FILE or "/" in name:
                continue
            try:
                fetched = self._objects.fetch(f"{version}/{name}", folder / name)
            except ObjectMissing as error:
                raise DamagedVersion(version, f"{name} is missing") from error
            # The reports and the evaluation model are not in the manifest; of them, the transfer only checks the size.
            if name in checksums:
                check_content(version, checksums[name], fetched.size, fetched.sha256)
        write_synced(folder / MANIFEST_FILE, manifest)

    def _complete(self, names: list[str]) -> set[int]:
        parts = (name.split("/") for name in names)
        return {version_number(part[0]) for part in parts if part[1:] == [MANIFEST_FILE]} - {0}


def _is_intact(folder: Path, version: int) -> bool:
    """Say whether a local copy of a version has all files of its manifest, unchanged."""
    try:
        for listed in read_checksums(version, (folder / MANIFEST_FILE).read_bytes()).values():
            check_file(version, listed, folder / listed.path)
    except (OSError, DamagedVersion):
        return False
    return True


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
