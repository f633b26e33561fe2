"""The same rules for a repository in a folder and for one in a bucket."""

import errno
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from services.repository.bucket import BucketRepository
from services.repository.errors import Changed, RepositoryError, RepositoryUnavailable, VersionExists, VersionMissing
from services.repository.folder import FolderRepository
from services.repository.opening import open_repository
from services.repository.repository import Repository
from tests.object_store import ObjectStore

MODEL = "m"


def version_files(version: int, graph: bytes = b"graph") -> dict[str, bytes]:
    listed = [{"path": "model.onnx", "sha256": hashlib.sha256(graph).hexdigest(), "size_bytes": len(graph)}]
    manifest = json.dumps({"model": MODEL, "version": version, "files": listed}).encode()
    return {"manifest.json": manifest, "model.onnx": graph, "evaluation.json": b"{}"}


@pytest.fixture(params=["folder", "bucket"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    url = request.getfixturevalue("store").make_bucket() if request.param == "bucket" else ""
    return open_repository(url, tmp_path / "models", MODEL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_version_comes_back_as_it_was_added(repository: Repository) -> None:
    repository.add_version(1, version_files(1))
    repository.add_version(10, version_files(10))
    repository.add_version(2, version_files(2, b"another graph"))
    assert repository.versions() == [10, 2, 1]
    assert contents(repository.folder_of(2)) == version_files(2, b"another graph")


def test_empty_repository_has_nothing(repository: Repository) -> None:
    assert (repository.versions(), repository.read("champion"), repository.list_files("snapshots")) == ([], None, [])
    assert repository.open_file("snapshots/a.parquet") is None
    with pytest.raises(VersionMissing):
        repository.folder_of(1)


def test_folder_that_was_used_before_the_bucket_stays_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    folder = open_repository("", tmp_path, MODEL)
    folder.add_version(1, version_files(1))
    folder.swap("champion", b"of the folder", None)
    bucket = open_repository(store.make_bucket(), tmp_path, MODEL)
    assert (bucket.read("champion"), bucket.copies()) == (None, [])
    assert getattr(folder.read("champion"), "content", None) == b"of the folder"


def test_number_that_is_taken_is_not_overwritten(repository: Repository) -> None:
    repository.add_version(1, version_files(1))
    with pytest.raises(VersionExists):
        repository.add_version(1, version_files(1, b"another graph"))
    assert contents(repository.folder_of(1)) == version_files(1)


def test_two_that_add_the_same_number_get_one_version(repository: Repository) -> None:
    def add(graph: bytes) -> bytes | None:
        try:
            repository.add_version(1, version_files(1, graph))
        except VersionExists:
            return None
        return graph

    with ThreadPoolExecutor() as pool:
        (winner,) = filter(None, pool.map(add, [b"one", b"two", b"three"]))
    assert contents(repository.folder_of(1)) == version_files(1, winner)


def test_deleted_version_is_gone_and_others_stay(repository: Repository) -> None:
    for number in (1, 2):
        repository.add_version(number, version_files(number))
        repository.folder_of(number)
    repository.delete_version(1)
    repository.delete_version(1)
    assert repository.versions() == [2]
    with pytest.raises(VersionMissing):
        repository.folder_of(1)


def test_small_file_is_replaced_by_who_read_it_last(repository: Repository) -> None:
    first = repository.swap("champion", b"one", None)
    stored = repository.read("champion")
    assert stored is not None
    assert (stored.content, stored.tag) == (b"one", first)
    second = repository.swap("champion", b"two", first)
    for stale in (None, first, "no tag of it"):
        with pytest.raises(Changed):
            repository.swap("champion", b"three", stale)
    with pytest.raises(Changed):
        repository.swap("experiment", b"there is none to replace", second)
    assert getattr(repository.read("champion"), "content", None) == b"two"


@pytest.mark.parametrize("begins", ["empty", "with a champion"])
def test_of_two_that_swap_at_once_one_wins(repository: Repository, begins: str) -> None:
    tag = None if begins == "empty" else repository.swap("champion", b"before", None)

    def swap(content: bytes) -> bytes | None:
        try:
            repository.swap("champion", content, tag)
        except Changed:
            return None
        return content

    with ThreadPoolExecutor() as pool:
        (winner,) = filter(None, pool.map(swap, [b"one", b"two", b"three", b"four"]))
    assert getattr(repository.read("champion"), "content", None) == winner


def content_of(repository: Repository, name: str) -> bytes | None:
    file = repository.open_file(name)
    if file is None:
        return None
    with file:
        return file.read()


def test_file_beside_the_versions_comes_back(repository: Repository) -> None:
    content = b"rows" * 2_000_000
    for name in ("b", "a"):
        repository.put_file(f"snapshots/{name}.parquet", lambda file: file.write(content))
    assert content_of(repository, "snapshots/b.parquet") == content
    repository.put_file("snapshots/b.parquet", lambda file: file.write(b"replaced"))
    assert content_of(repository, "snapshots/b.parquet") == b"replaced"
    assert sorted(repository.list_files("snapshots")) == ["snapshots/a.parquet", "snapshots/b.parquet"]
    repository.delete_file("snapshots/b.parquet")
    repository.delete_file("snapshots/b.parquet")
    assert content_of(repository, "snapshots/b.parquet") is None
    assert repository.versions() == []


def test_files_are_listed_from_the_newest_to_the_oldest(repository: Repository) -> None:
    repository.put_file("snapshots/a", lambda file: file.write(b""))
    time.sleep(1.1 if isinstance(repository, BucketRepository) else 0.02)  # times in a bucket are whole seconds
    repository.put_file("snapshots/b", lambda file: file.write(b""))
    assert repository.list_files("snapshots") == ["snapshots/b", "snapshots/a"]


def test_file_whose_writer_fails_is_as_it_was(repository: Repository, tmp_path: Path) -> None:
    repository.put_file("snapshots/a", lambda file: file.write(b"before"))

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RepositoryUnavailable, match="cannot write snapshots/a: No space left"):
        repository.put_file("snapshots/a", write)
    assert content_of(repository, "snapshots/a") == b"before"
    assert repository.list_files("snapshots") == ["snapshots/a"]


def test_half_written_files_are_invisible_and_deleted_when_they_are_old_enough(tmp_path: Path) -> None:
    repository = FolderRepository(tmp_path)
    repository.put_file("snapshots/a", lambda file: file.write(b"whole"))
    for name, age in (("old", 100), ("young", 0)):
        (tmp_path / "snapshots" / f".a.{name}").touch()
        os.utime(tmp_path / "snapshots" / f".a.{name}", (time.time() - age,) * 2)
    assert repository.list_files("snapshots") == ["snapshots/a"]
    repository.delete_half_written("snapshots", older_than_seconds=50)
    assert {".a.young", "a"} == {path.name for path in (tmp_path / "snapshots").iterdir()}
    repository.delete_half_written("snapshots")
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["a"]


def test_no_copy_of_a_file_beside_the_versions_stays_on_the_machine_that_reads_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    url = store.make_bucket()
    one, other = (BucketRepository(url, MODEL, tmp_path / name) for name in ("one", "other"))
    one.put_file("snapshots/a", lambda file: file.write(b"what somebody said"))
    reading = other.open_file("snapshots/a")
    assert reading is not None
    with reading:
        assert [list((tmp_path / name).iterdir()) for name in ("one", "other")] == [[], []]
        one.delete_file("snapshots/a")
        assert (reading.read(), other.open_file("snapshots/a")) == (b"what somebody said", None)


@pytest.mark.parametrize("name", ["../champion", "/etc/passwd", "snapshots/../../x", ""])
def test_name_that_leaves_the_repository_is_refused(repository: Repository, name: str) -> None:
    calls: list[Any] = [repository.read, repository.open_file, repository.delete_file]
    for call in (
        *calls,
        lambda name: repository.swap(name, b"", None),
        lambda name: repository.put_file(name, lambda _file: None),
    ):
        with pytest.raises(ValueError, match="no name of a file"):
            call(name)


def test_stray_folders_and_files_are_no_versions(repository: Repository, tmp_path: Path) -> None:
    repository.add_version(1, version_files(1))
    repository.folder_of(1)
    for name in ("snapshots", "1.bak", "-1", "٣", "007", "5"):
        (tmp_path / "models" / MODEL / name).mkdir(parents=True, exist_ok=True)
    assert repository.versions() == [1]


def test_errors_are_of_one_family() -> None:
    assert all(issubclass(kind, RepositoryError) for kind in (Changed, VersionExists, VersionMissing))
