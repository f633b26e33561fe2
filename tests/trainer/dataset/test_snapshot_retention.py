import errno
import io
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from services.repository.bucket import BucketRepository
from services.repository.folder import FolderRepository
from services.trainer.dataset.examples import FEEDBACK, IMPORT, Example
from services.trainer.dataset.snapshot import (
    FOLDER,
    FORMER_SUFFIX,
    DatasetSnapshot,
    file_of,
    read_snapshot,
    split,
    write_snapshot,
)
from services.trainer.dataset.snapshot_retention import (
    choose_snapshots_to_delete,
    convert_snapshots,
    delete_snapshots_with,
    prune_snapshots,
)
from services.trainer.dataset.snapshot_table import contains_text
from services.trainer.errors import StorageFailed
from tests.object_store import ObjectStore


def snapshot_of(*texts: str, source: str = FEEDBACK) -> DatasetSnapshot:
    return split([Example(text, ("a",), source) for text in texts], [])


def write(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write a snapshot into a folder of models and return the path of its file."""
    write_snapshot(snapshot, FolderRepository(folder))
    return folder / file_of(snapshot.id)


def write_as_earlier_releases_did(snapshot: DatasetSnapshot, folder: Path) -> Path:
    rows = [
        {"text": example.text, "labels": example.labels, "part": part, "source": example.source}
        for part, examples in snapshot.parts.items()
        for example in examples
    ]
    path = folder / file_of(snapshot.id, FORMER_SUFFIX)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("newest_first", "of_versions", "deleted"),
    [
        ("", "", ""),
        ("abcde", "", ""),
        ("abcdefg", "", "fg"),
        ("abcdefg", "g", "f"),
        ("abcdefg", "afgz", ""),
    ],
)
def test_snapshots_of_kept_versions_and_the_newest_stay(newest_first: str, of_versions: str, deleted: str) -> None:
    assert list(deleted) == choose_snapshots_to_delete(list(newest_first), set(of_versions))


def test_pruning_deletes_what_is_old_in_every_form_and_what_killed_runs_left(tmp_path: Path) -> None:
    names, folder = [], tmp_path / FOLDER
    for age in range(8):
        snapshot = snapshot_of(f"text {age}")
        path = (write_as_earlier_releases_did if age == 6 else write)(snapshot, tmp_path)
        os.utime(path, (10_000 - age, 10_000 - age))
        names.append(snapshot.id)
    for name, age in (("old", 10_000), ("new", 0)):
        (folder / f".x.parquet.{name}").touch()
        if age:
            os.utime(folder / f".x.parquet.{name}", (age, age))
    assert [names[5], names[6]] == prune_snapshots(FolderRepository(tmp_path), {names[7]})
    left = {path.name for path in folder.iterdir()}
    assert {f"{name}.parquet" for name in (*names[:5], names[7])} | {".x.parquet.new"} == left
    assert prune_snapshots(FolderRepository(tmp_path / "nowhere"), ()) == []


def test_snapshots_with_a_persons_words_are_deleted_in_every_form(tmp_path: Path) -> None:
    others = write(snapshot_of("ben one"), tmp_path)
    shipped = write(snapshot_of("anna one", source="seed"), tmp_path)
    hers = write(snapshot_of("ben one", "anna one"), tmp_path)
    imported = write(snapshot_of("anna two", source=IMPORT), tmp_path)
    former = write_as_earlier_releases_did(snapshot_of("anna one"), tmp_path)
    assert delete_snapshots_with(FolderRepository(tmp_path), []) == 0
    assert delete_snapshots_with(FolderRepository(tmp_path), {"anna one", "anna two", "half \ud800"}) == 3
    assert [path.exists() for path in (others, shipped, hers, imported, former)] == [True, True, False, False, False]


def test_file_that_cannot_be_searched_is_deleted_with_a_persons_words(tmp_path: Path) -> None:
    short = write(snapshot_of("anna one"), tmp_path)
    short.write_bytes(short.read_bytes()[:-10])
    torn = write(snapshot_of(*(f"anna number {n}" for n in range(500))), tmp_path)
    content = torn.read_bytes()
    torn.write_bytes(content[:200] + bytes(len(content) // 2) + content[200 + len(content) // 2 :])
    folder = tmp_path / FOLDER
    (folder / "0123.jsonl").write_text('{"text": "ann')
    (folder / "4567.jsonl").write_text('"anna"')
    (folder / ".0123.parquet.left").write_text("half")
    assert delete_snapshots_with(FolderRepository(tmp_path), ["anna one"]) == 4
    assert list(folder.iterdir()) == []


class BrokenDisk(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    readline = __next__ = read


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_file_that_the_system_refuses_to_read_is_a_failure_that_can_be_tried_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / FOLDER / f"a{suffix}"
    path.parent.mkdir()
    path.write_text("")

    class Refusing(FolderRepository):
        def open_file(self, name: str) -> BinaryIO:
            assert tmp_path / name == path
            return BrokenDisk(bytes(1000))

    with pytest.raises(StorageFailed, match=f"cannot read a{suffix}: Input/output error"):
        delete_snapshots_with(Refusing(tmp_path), ["anna one"])
    assert path.exists()


def test_disk_that_cannot_be_read_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    content = write(snapshot_of("anna one"), tmp_path).read_bytes()
    with pytest.raises(OSError, match="Input/output error"):
        contains_text(BrokenDisk(content), ["anna one"], [FEEDBACK])


@pytest.mark.parametrize("is_bucket", [False, True], ids=["folder", "bucket"])
def test_snapshots_of_earlier_releases_are_converted_under_their_names_and_damaged_ones_stay(
    store: ObjectStore, tmp_path: Path, is_bucket: bool
) -> None:
    url = store.make_bucket()
    repository = BucketRepository(url, "m", tmp_path / "copies") if is_bucket else FolderRepository(tmp_path)
    snapshot, older = snapshot_of("so good 🍕", "nothing"), snapshot_of("older")
    former, old = (write_as_earlier_releases_did(each, tmp_path) for each in (snapshot, older))
    os.utime(old, (5, 5))
    damaged = write_as_earlier_releases_did(snapshot_of("torn"), tmp_path)
    damaged.write_text(damaged.read_text()[:-5])
    aside: list[Path] = []
    converted = convert_snapshots(tmp_path, repository, aside.append)
    assert (2, (damaged.stem,), [old, former]) == (converted.count, converted.damaged, aside)
    for path in aside:
        path.unlink()
    assert [snapshot, older] == [read_snapshot(each.id, repository) for each in (snapshot, older)]
    assert convert_snapshots(tmp_path, repository, aside.append).count == 0
