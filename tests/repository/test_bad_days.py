"""What a bucket, and a disk, do on a bad day."""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path

import pytest

from services.repository import folder as folder_module
from services.repository.bucket import BucketRepository
from services.repository.disk import adding_folder, remove_leftovers, replace_file
from services.repository.errors import Changed, DamagedVersion, RepositoryUnavailable, VersionExists, VersionMissing
from services.repository.folder import FolderRepository
from services.repository.objects import TimeLimits
from services.repository.repository import Repository
from tests.object_store import ObjectStore
from tests.repository.test_repository import MODEL, contents, version_files

# A call that must succeed gets the usual limits. The others are for calls that the store refuses or never answers.
PATIENT = TimeLimits()
IMPATIENT = TimeLimits(request=0.5, retrying=0.5, transfer=0.5)


@pytest.fixture
def url(store: ObjectStore) -> str:
    return store.make_bucket()


def repository_at(
    url: str, cache: Path, leftover_after: timedelta = timedelta(0), limits: TimeLimits = PATIENT
) -> BucketRepository:
    return BucketRepository(url, MODEL, cache, limits, leftover_after)


@pytest.fixture
def repository(url: str, tmp_path: Path) -> BucketRepository:
    return repository_at(url, tmp_path / "cache")


@pytest.fixture
def impatient(url: str, tmp_path: Path) -> BucketRepository:
    """The repository in the same bucket with the same cache, for calls that the store refuses."""
    return repository_at(url, tmp_path / "cache", limits=IMPATIENT)


def test_store_that_is_overloaded_for_a_moment_is_asked_again(store: ObjectStore, repository: BucketRepository) -> None:
    store.refuse = 2
    tag = repository.swap("champion", b"one", None)
    store.refuse = 2
    assert getattr(repository.read("champion"), "tag", None) == tag


@pytest.mark.parametrize("day", ["refuses", "freezes"])
def test_store_that_gives_no_answer_is_an_error_and_no_call_that_hangs(
    store: ObjectStore, repository: BucketRepository, impatient: BucketRepository, day: str
) -> None:
    repository.add_version(1, version_files(1))
    if day == "refuses":
        store.refuse = 1000
    else:
        store.freeze()
    for call in (lambda: impatient.read("champion"), impatient.versions, lambda: impatient.folder_of(1)):
        with pytest.raises(RepositoryUnavailable, match="no usable answer in time"):
            call()


def test_swap_of_a_small_file_takes_no_longer_than_small_files_may(
    store: ObjectStore, url: str, tmp_path: Path
) -> None:
    patient = BucketRepository(url, MODEL, tmp_path, TimeLimits(request=0.2, retrying=0.2, transfer=3600.0))
    store.freeze()
    with ThreadPoolExecutor(1) as pool:
        swap = pool.submit(patient.swap, "champion", b"one", None)
        wait([swap], 20)
        store.heal()
    assert isinstance(swap.exception(), RepositoryUnavailable)


def test_put_whose_answer_was_lost_counts_as_its_own(
    store: ObjectStore, repository: BucketRepository, url: str
) -> None:
    store.overwrite(url, "m/champion", b"one")
    tag = repository.swap("champion", b"one", None)
    assert getattr(repository.read("champion"), "tag", None) == tag


def test_upload_that_died_is_invisible_and_can_be_removed(
    store: ObjectStore, repository: BucketRepository, impatient: BucketRepository, url: str, tmp_path: Path
) -> None:
    repository.add_version(1, version_files(1))
    store.puts_left = 2
    with pytest.raises(RepositoryUnavailable):
        impatient.add_version(2, version_files(2))
    store.puts_left = None
    assert repository.versions() == [1]
    with pytest.raises(VersionMissing):
        repository.folder_of(2)
    with pytest.raises(VersionExists):
        repository.add_version(2, version_files(2, b"must not mix with the leftovers"))
    repository_at(url, tmp_path / "cache", timedelta(hours=1)).remove_unfinished()
    with pytest.raises(VersionExists):
        repository.add_version(2, version_files(2, b"still there"))
    repository.remove_unfinished()
    repository.add_version(2, version_files(2))
    assert contents(repository.folder_of(2)) == version_files(2)
    assert contents(repository.folder_of(1)) == version_files(1)


def test_deletion_that_died_leaves_no_half_version(
    store: ObjectStore, repository: BucketRepository, url: str, tmp_path: Path
) -> None:
    repository.add_version(1, version_files(1))
    store.requests.clear()
    repository.delete_version(1)
    assert [method for method, _ in store.requests] == ["POST", "GET", "POST"]
    store.overwrite(url, "m/1/model.onnx", b"what a killed deletion left")
    assert repository.versions() == []
    with pytest.raises(VersionMissing):
        repository_at(url, tmp_path / "elsewhere").folder_of(1)
    repository.remove_unfinished()
    assert repository.list_files("1") == []


@pytest.mark.parametrize("content", [b"grapH", b"longer than the graph", b""])
def test_damaged_object_is_refused_and_fetched_again_later(
    store: ObjectStore, repository: BucketRepository, url: str, tmp_path: Path, content: bytes
) -> None:
    repository.add_version(1, version_files(1))
    store.overwrite(url, "m/1/model.onnx", content)
    with pytest.raises(DamagedVersion, match=r"model\.onnx"):
        repository.folder_of(1)
    assert list((tmp_path / "cache").iterdir()) == []
    store.overwrite(url, "m/1/model.onnx", b"graph")
    assert contents(repository.folder_of(1)) == version_files(1)


@pytest.mark.parametrize("manifest", [b'{"files"', b'{"files": [{"path": "../champion"}]}'])
def test_manifest_that_cannot_be_used_is_damage(repository: BucketRepository, manifest: bytes) -> None:
    repository.add_version(1, {"manifest.json": manifest})
    with pytest.raises(DamagedVersion, match="manifest"):
        repository.folder_of(1)


def test_version_without_a_listed_file_is_damaged(repository: BucketRepository) -> None:
    files = version_files(1)
    repository.add_version(1, {"manifest.json": files["manifest.json"]})
    with pytest.raises(DamagedVersion, match=r"model\.onnx is missing"):
        repository.folder_of(1)


def test_copy_is_used_again_while_the_store_is_away(
    store: ObjectStore, repository: BucketRepository, url: str, tmp_path: Path
) -> None:
    repository.add_version(1, version_files(1))
    repository.folder_of(1)
    store.requests.clear()
    repository.folder_of(1)
    assert store.requests == []
    store.refuse = 1000
    assert contents(repository_at(url, tmp_path / "cache", limits=IMPATIENT).folder_of(1)) == version_files(1)


@pytest.mark.parametrize("spoilt", ["damaged on disk", "of another repository"])
def test_copy_that_is_not_the_version_is_fetched_again(
    repository: BucketRepository, url: str, tmp_path: Path, spoilt: str
) -> None:
    repository.add_version(1, version_files(1))
    if spoilt == "damaged on disk":
        (repository.folder_of(1) / "model.onnx").write_bytes(b"grapH")
    else:
        FolderRepository(tmp_path / "cache").add_version(1, version_files(1, b"theirs"))
    assert contents(repository_at(url, tmp_path / "cache").folder_of(1)) == version_files(1)


def test_dropped_copy_is_fetched_again(repository: BucketRepository, tmp_path: Path) -> None:
    for number in (1, 2):
        repository.add_version(number, version_files(number))
        repository.folder_of(number)
    repository.drop_copy(1)
    assert (repository.copies(), repository.versions()) == ([2], [2, 1])
    assert contents(repository.folder_of(1)) == version_files(1)


def test_leftovers_of_a_killed_process_are_removed_at_the_next_start(url: str, tmp_path: Path) -> None:
    old, young = tmp_path / "cache" / ".unfinished-old", tmp_path / "cache" / ".unfinished-young"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
    os.utime(old, (0, 0))
    repository_at(url, tmp_path / "cache", timedelta(hours=1))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [young.name]


def test_bucket_that_is_missing_is_no_empty_repository(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(RepositoryUnavailable, match="no such bucket"):
        repository_at("s3://nowhere/models", tmp_path).read("champion")


def test_refused_credentials_and_plain_http_say_what_to_check(
    store: ObjectStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    with pytest.raises(RepositoryUnavailable, match="AWS_ALLOW_HTTP=true") as raised:
        repository_at(url, tmp_path).read("champion")
    assert not any(hidden in str(raised.value) for hidden in ("hush-hush", "127.0.0.1", url))


def test_disk_that_refuses_is_a_repository_that_is_away(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    repository = FolderRepository(blocked / "m")
    with pytest.raises(RepositoryUnavailable, match="cannot write version 1: Not a directory"):
        repository.add_version(1, version_files(1))
    with pytest.raises(RepositoryUnavailable, match="champion: Not a directory"):
        repository.swap("champion", b"one", None)
    (tmp_path / "m" / "champion").mkdir(parents=True)
    with pytest.raises(RepositoryUnavailable, match="Is a directory"):
        FolderRepository(tmp_path / "m").read("champion")


def test_folder_version_that_died_half_way_is_invisible_and_removed(tmp_path: Path) -> None:
    repository = FolderRepository(tmp_path / "m")
    repository.add_version(1, version_files(1))
    killed, in_work = tmp_path / "m" / ".unfinished-killed", tmp_path / "m" / ".unfinished-in-work"
    for leftover in (killed, in_work):
        leftover.mkdir()
    torn = tmp_path / "m" / f".champion.{'0' * 32}"
    torn.write_text("{")
    for leftover in (killed, torn):
        os.utime(leftover, (0, 0))
    assert (repository.versions(), repository.unfinished()) == ([1], [torn.name, killed.name])
    repository.remove_unfinished()
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"1", in_work.name}


@pytest.mark.parametrize("spoilt", ["in the folder", "in the bucket"])
def test_version_that_differs_from_its_manifest_is_found(
    store: ObjectStore, repository: BucketRepository, url: str, tmp_path: Path, spoilt: str
) -> None:
    checked: Repository = repository
    if spoilt == "in the folder":
        checked = FolderRepository(tmp_path / "m")
    checked.add_version(1, version_files(1))
    checked.check_version(1)
    checked.folder_of(1)  # an intact copy of a damaged version says nothing
    if spoilt == "in the folder":
        (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"grapH")
    else:
        store.overwrite(url, "m/1/model.onnx", b"grapH")
    with pytest.raises(DamagedVersion, match=r"SHA-256 of model\.onnx"):
        checked.check_version(1)
    with pytest.raises(VersionMissing):
        checked.check_version(2)


def test_process_that_pauses_in_the_middle_of_a_swap_does_not_undo_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, other = FolderRepository(tmp_path / "m"), FolderRepository(tmp_path / "m")
    tag, others = paused.swap("champion", b"before", None), list[Future[str]]()

    def pauses(path: Path, content: bytes) -> None:
        if content == b"paused":
            others.append(pool.submit(other.swap, "champion", b"other", tag))
            wait(others, 0.1)
        replace_file(path, content)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(folder_module, "replace_file", pauses)
        paused.swap("champion", b"paused", tag)
        assert isinstance(others[0].exception(), Changed)
    assert getattr(other.read("champion"), "content", None) == b"paused"


def test_swap_that_another_process_holds_up_is_an_error_and_no_call_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "LOCK_SECONDS", 0.0)
    stopped, other = FolderRepository(tmp_path / "m"), FolderRepository(tmp_path / "m")

    def meanwhile(*_: object) -> None:
        with pytest.raises(RepositoryUnavailable, match="another process is writing it"):
            other.swap("champion", b"other", None)

    monkeypatch.setattr(folder_module, "replace_file", meanwhile)
    stopped.swap("champion", b"stopped", None)


def test_version_whose_leftovers_are_removed_while_it_is_written_is_not_added_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another trainer, to which this one looks dead, removes the unfinished folder and is slow about it."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)

    def write() -> None:
        with adding_folder(tmp_path / "1") as unfinished:
            remove_leftovers(tmp_path, 0)
            (unfinished / "manifest.json").write_text("{}")

    with pytest.raises(FileNotFoundError):
        write()
    assert not (tmp_path / "1").exists()
