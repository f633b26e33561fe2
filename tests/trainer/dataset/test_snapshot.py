import errno
import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from services.language.text import normalise
from services.repository.bucket import BucketRepository
from services.repository.folder import FolderRepository
from services.repository.objects import TimeLimits
from services.trainer.dataset import snapshot_table
from services.trainer.dataset.examples import FEEDBACK, TAXONOMY, Example
from services.trainer.dataset.snapshot import (
    FORMER_SUFFIX,
    DatasetSnapshot,
    choose_part,
    file_of,
    read_rows,
    read_snapshot,
    split,
    write_snapshot,
)
from services.trainer.dataset.words import digest_of_content
from services.trainer.errors import SnapshotNotFound, StorageFailed
from services.trainer.storage import replacing
from tests.conftest import ROOT
from tests.object_store import ObjectStore

EXAMPLES = [Example(f"query number {n}", ("a",)) for n in range(500)]


def write(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write a snapshot into a folder of models and return the path of its file."""
    write_snapshot(snapshot, FolderRepository(folder))
    return folder / file_of(snapshot.id)


def test_example_never_changes_sides_as_data_grows() -> None:
    small, large = split(EXAMPLES[:100], []), split(EXAMPLES, [])
    assert set(small.train) <= set(large.train)
    assert set(small.evaluation_examples) <= set(large.evaluation_examples)


def test_about_a_tenth_is_held_out() -> None:
    assert 30 <= len(split(EXAMPLES, []).evaluation_examples) <= 75


@given(st.lists(st.sampled_from(["warm", "soup", "rainy", "day"]), min_size=1))
def test_texts_of_the_same_words_land_on_one_side(words: list[str]) -> None:
    shuffled = Example(", ".join(reversed(words)).upper() + "!", ("a",))
    assert choose_part(Example(" ".join(words), ("a",))) == choose_part(shuffled)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I want spicy noodles", "the spicy noodle I want!"),
        ("what is my balance", "Balance?"),
        ("transfer 100 dollars to savings", "transfer 100 dollars into my savings"),
        ("the who", "who the"),
    ],
)
def test_near_duplicates_land_on_one_side(one: str, other: str) -> None:
    assert digest_of_content(normalise(one)) == digest_of_content(normalise(other))


def test_texts_that_say_something_else_are_told_apart() -> None:
    texts = ["spicy noodles", "spicy soup", "noodles", "1 2 3", "4 5 6", "noodles 1", "the", "of"]
    assert len(texts) == len({digest_of_content(normalise(text)) for text in texts})


def test_no_model_is_measured_on_descriptors_of_the_taxonomy() -> None:
    descriptors = [Example(f"query number {n}", ("a",), TAXONOMY) for n in range(500)]
    assert split(descriptors, []).evaluation_examples == ()


def test_feedback_has_a_holdout_of_its_own_that_the_serving_model_is_fitted_to() -> None:
    feedback = [Example(f"query number {n}", ("a",), FEEDBACK) for n in range(500)]
    snapshot = split(feedback, [])
    assert snapshot.evaluation_examples == ()
    assert 30 <= len(snapshot.feedback_holdout) <= 75
    assert set(feedback) == set(snapshot.fitted_examples)


def test_everything_but_test_examples_is_fitted_and_the_holdout_is_marked() -> None:
    test = [Example("kept for evaluation", ("a",))]
    snapshot = split(EXAMPLES, test)
    assert set(EXAMPLES) == set(snapshot.fitted_examples)
    marked = zip(snapshot.fitted_examples, snapshot.holdout_mask, strict=True)
    holdout = [example for example, held_out in marked if held_out]
    assert [*holdout, *test] == list(snapshot.evaluation_examples)


def test_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    said = [Example("so good 🍕\n", ("a", "b"), FEEDBACK), Example("nothing", ())]
    written = split([*EXAMPLES, *said], [Example("kept", ("a",))], [Example("golden", ("a",))])
    write(written, tmp_path)
    assert written == read_snapshot(written.id, FolderRepository(tmp_path))


def test_name_of_a_snapshot_is_its_content(tmp_path: Path) -> None:
    first, again = split(EXAMPLES, []), split(EXAMPLES, [])
    other = split(EXAMPLES[:-1], [])
    assert first.id == again.id
    assert first.id != other.id
    path = write(first, tmp_path)
    rows = list(read_rows(first.id, FolderRepository(tmp_path)))
    assert (500, f"{first.id}.parquet") == (len(rows), path.name)
    assert {"train", "withheld"} == {part for part, _ in rows}


def test_name_is_that_of_the_rows_as_json_lines_whatever_the_form_of_the_file() -> None:
    """The names of snapshots in manifests stay right as long as this does."""
    feedback = Example("so good 🍕", ("b",), FEEDBACK)
    line = '{"text": "so good 🍕", "labels": ["b"], "part": "train", "source": "feedback"}\n'
    assert hashlib.sha256(line.encode()).hexdigest()[:16] == split([feedback], []).id


def test_snapshots_written_by_earlier_releases_are_still_read(tmp_path: Path) -> None:
    rows = [
        {"text": "warm soup", "labels": ["a"], "part": "train", "source": "seed"},
        {"text": "cold soup", "labels": ["b"], "part": "withheld_feedback", "source": "feedback"},
        {"text": "hot tea", "labels": ["a", "b"], "part": "withheld", "source": "seed"},
        {"text": "iced tea", "labels": [], "part": "reserved", "source": "seed"},
        {"text": "🍕", "labels": ["b"], "part": "golden", "source": "seed"},
    ]
    name = "ee95b657df59fcc0"
    path = tmp_path / file_of(name, FORMER_SUFFIX)
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    snapshot = read_snapshot(name, FolderRepository(tmp_path))
    parts = (snapshot.train, snapshot.feedback_holdout, snapshot.holdout, snapshot.test, snapshot.golden)
    assert [[row["text"]] for row in rows] == [[example.text for example in part] for part in parts]


def test_damaged_file_is_not_taken_for_the_snapshot_and_is_written_anew(tmp_path: Path) -> None:
    snapshot, other = split(EXAMPLES, []), split(EXAMPLES[:-1], [])
    path = write(snapshot, tmp_path)
    intact, foreign = path.read_bytes(), write(other, tmp_path).read_bytes()
    torn = bytearray(intact)
    torn[100:200] = bytes(100)
    for damage in (intact[:-10], b"", b"garbage", bytes(torn), foreign):
        path.write_bytes(damage)
        with pytest.raises(SnapshotNotFound):
            read_snapshot(snapshot.id, FolderRepository(tmp_path))
        write(snapshot, tmp_path)
        assert snapshot == read_snapshot(snapshot.id, FolderRepository(tmp_path))


def test_snapshot_that_is_written_again_counts_as_the_newest(tmp_path: Path) -> None:
    snapshot = split(EXAMPLES, [])
    path = write(snapshot, tmp_path)
    content = path.read_bytes()
    os.utime(path, (1000, 1000))
    write(snapshot, tmp_path)
    assert (content, True) == (path.read_bytes(), path.stat().st_mtime > 1000)


def test_trainer_reads_what_another_one_wrote_into_the_bucket(store: ObjectStore, tmp_path: Path) -> None:
    url, snapshot = store.make_bucket(), split(EXAMPLES, [])
    one, other = (BucketRepository(url, "m", tmp_path / name) for name in ("one", "other"))
    write_snapshot(snapshot, one)
    assert snapshot == read_snapshot(snapshot.id, other)
    store.refuse = 10**9
    with pytest.raises(StorageFailed, match="no usable answer in time"):
        read_snapshot(snapshot.id, BucketRepository(url, "m", tmp_path / "other", TimeLimits(0.5, 0.5, 0.5)))


def test_many_rows_are_written_and_read_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_table, "ROWS_AT_ONCE", 70)
    snapshot = split(EXAMPLES, [])
    path = write(snapshot, tmp_path)
    assert parquet.ParquetFile(path).num_row_groups == 8
    assert snapshot == read_snapshot(snapshot.id, FolderRepository(tmp_path))


class FullDisk(io.BytesIO):
    def write(self, _content: Any, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_is_a_storage_failure_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot write x: No space left"), replacing(tmp_path / "x"):
        snapshot_table.write_table(FullDisk(), [("train", example) for example in EXAMPLES])
    assert list(tmp_path.iterdir()) == []


def test_a_trainer_that_serves_does_not_load_the_library_of_the_files_at_its_start() -> None:
    """An import at the head of any other module would load it."""
    at_head = re.compile(r"^(from|import) .*(pyarrow|snapshot_table)", re.MULTILINE)
    importing = [path.name for path in (ROOT / "services").rglob("*.py") if at_head.search(path.read_text())]
    assert importing == ["snapshot_table.py"]
