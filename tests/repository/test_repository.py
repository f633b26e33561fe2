"""The same rules for a repository in a folder and for one in a bucket."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.repository.errors import Changed, RepositoryError, VersionExists, VersionMissing
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
    assert repository.fetch_file("snapshots/a.parquet") is None
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


def test_file_beside_the_versions_comes_back(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "written"
    path.write_bytes(b"rows" * 1000)
    repository.put_file("snapshots/b.parquet", path)
    repository.put_file("snapshots/a.parquet", path)
    fetched = repository.fetch_file("snapshots/b.parquet")
    assert fetched is not None
    assert fetched.read_bytes() == path.read_bytes()
    assert repository.list_files("snapshots") == ["snapshots/a.parquet", "snapshots/b.parquet"]
    repository.delete_file("snapshots/b.parquet")
    repository.delete_file("snapshots/b.parquet")
    assert repository.fetch_file("snapshots/b.parquet") is None
    assert repository.versions() == []


def test_file_that_lies_in_its_place_already_is_stored(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "models" / MODEL / "snapshots" / "a.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rows")
    repository.put_file("snapshots/a.parquet", path)
    assert repository.list_files("snapshots") == ["snapshots/a.parquet"]
    fetched = repository.fetch_file("snapshots/a.parquet")
    assert fetched is not None
    assert fetched.read_bytes() == b"rows"


@pytest.mark.parametrize("name", ["../champion", "/etc/passwd", "snapshots/../../x", ""])
def test_name_that_leaves_the_repository_is_refused(repository: Repository, name: str, tmp_path: Path) -> None:
    calls: list[Any] = [repository.read, repository.fetch_file, repository.delete_file]
    for call in (
        *calls,
        lambda name: repository.swap(name, b"", None),
        lambda name: repository.put_file(name, tmp_path),
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
