from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import ModelVersionNotFound, StorageFailed
from services.trainer.registry.registry import UNFINISHED_PREFIX, ModelRegistry
from tests.registries import promote


def contents(version: int) -> dict[str, bytes]:
    manifest = f'{{"model": "m", "version": {version}}}'.encode()
    return {"manifest.json": manifest, "model.onnx": b"graph", "evaluation.json": b"{}", "decision.json": b"{}"}


@pytest.fixture
def empty(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path, "m", keep_versions=3)


def test_versions_count_up_and_are_never_used_twice(empty: ModelRegistry) -> None:
    assert [empty.register(contents), empty.register(contents)] == [1, 2]
    empty.record_refusal(7, "test", "gone since")
    assert empty.register(contents) == 8
    assert empty.versions() == [8, 2, 1]


def test_half_written_version_is_never_visible_and_is_removed_later(empty: ModelRegistry) -> None:
    empty.register(contents)

    def dies(version: int) -> dict[str, bytes]:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFailed):
        empty.register(dies)
    leftover = empty.folder / f"{UNFINISHED_PREFIX}killed"
    leftover.mkdir()
    assert empty.versions() == [1]
    empty.repair()
    assert not leftover.exists()


def test_alias_says_who_when_why_and_its_generation_grows(empty: ModelRegistry) -> None:
    empty.register(contents)
    empty.register(contents)
    promote(empty, 1)
    alias = promote(empty, 2, reason="better")
    assert (alias.version, alias.generation, alias.previous, alias.by, alias.reason) == (2, 2, 1, "test", "better")
    assert alias == empty.champion()
    assert [(entry.from_version, entry.to_version) for entry in empty.history()] == [(0, 1), (1, 2)]


def test_damaged_alias_is_read_from_the_history(empty: ModelRegistry) -> None:
    empty.register(contents)
    empty.register(contents)
    promote(empty, 1)
    promote(empty, 2)
    (empty.folder / "champion").write_text('{"vers')
    alias = empty.champion()
    assert alias is not None
    assert (alias.version, alias.generation, alias.previous) == (2, 2, 1)
    assert empty.next_generation() == 3


def test_promotion_whose_history_line_is_missing_is_noted_on_repair(empty: ModelRegistry) -> None:
    empty.register(contents)
    promote(empty, 1)
    (empty.folder / "history.jsonl").write_text("")
    empty.repair()
    assert [(entry.action, entry.to_version) for entry in empty.history()] == [(pb.HISTORY_ACTION_PROMOTED, 1)]


def test_torn_history_line_is_passed_over(empty: ModelRegistry) -> None:
    empty.register(contents)
    promote(empty, 1)
    with (empty.folder / "history.jsonl").open("a") as file:
        file.write('{"action": "HISTORY')
    empty.record_refusal(2, "test", "bad")
    assert [entry.to_version for entry in empty.history()] == [1, 2]


def test_newest_versions_champion_and_predecessor_are_kept(empty: ModelRegistry) -> None:
    for _ in range(7):
        empty.register(contents)
    promote(empty, 1)
    promote(empty, 2)
    assert empty.prune() == [4, 3]
    assert empty.versions() == [7, 6, 5, 2, 1]


def test_reading_a_version_that_does_not_exist_is_not_found(empty: ModelRegistry) -> None:
    for read in (empty.manifest, empty.evaluation, empty.decision):
        with pytest.raises(ModelVersionNotFound):
            read(1)
    with pytest.raises(ModelVersionNotFound):
        empty.file(1, "model.onnx")


def test_stray_folders_are_no_versions(empty: ModelRegistry) -> None:
    empty.register(contents)
    for name in ("snapshots", "1.bak", "-1", "٣"):
        (empty.folder / name).mkdir()
    (empty.folder / "17").write_text("a file")
    assert empty.versions() == [1]
