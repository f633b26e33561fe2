from pathlib import Path

import pytest
from filelock import FileLock
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer import storage
from services.trainer.errors import ChampionChanged, ModelVersionNotFound, StorageFailed, VersionRefused
from services.trainer.registry.registry import ModelRegistry
from services.trainer.registry.versions import UNFINISHED_PREFIX
from tests.registries import promote


def contents(version: int) -> dict[str, bytes]:
    manifest = f'{{"model": "m", "version": {version}}}'.encode()
    return {"manifest.json": manifest, "model.onnx": b"graph", "evaluation.json": b"{}", "decision.json": b"{}"}


@pytest.fixture
def empty(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path, "m", keep_versions=3)


def test_versions_count_up_and_are_never_used_twice(empty: ModelRegistry) -> None:
    assert [empty.versions.register(contents), empty.versions.register(contents)] == [1, 2]
    empty.history.record_refusal(7, None, "test", "gone since")
    assert empty.versions.register(contents) == 8
    assert empty.versions.numbers() == [8, 2, 1]


def test_half_written_version_is_never_visible_and_is_removed_later(empty: ModelRegistry) -> None:
    empty.versions.register(contents)

    def dies(version: int) -> dict[str, bytes]:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFailed):
        empty.versions.register(dies)
    leftover = empty.folder / f"{UNFINISHED_PREFIX}killed"
    leftover.mkdir()
    assert empty.versions.numbers() == [1]
    empty.repair()
    assert not leftover.exists()


def test_alias_says_who_when_why_and_its_generation_grows(empty: ModelRegistry) -> None:
    empty.versions.register(contents)
    empty.versions.register(contents)
    promote(empty, 1)
    alias = promote(empty, 2, reason="better")
    assert (alias.version, alias.generation, alias.previous, alias.by, alias.reason) == (2, 2, 1, "test", "better")
    assert alias == empty.alias.read()
    assert [(entry.from_version, entry.to_version) for entry in empty.history.entries()] == [(0, 1), (1, 2)]


def test_damaged_alias_is_read_from_the_history(empty: ModelRegistry) -> None:
    empty.versions.register(contents)
    empty.versions.register(contents)
    promote(empty, 1)
    promote(empty, 2)
    (empty.folder / "champion").write_text('{"vers')
    alias = empty.alias.read()
    assert alias is not None
    assert (alias.version, alias.generation, alias.previous) == (2, 2, 1)
    assert empty.alias.next_generation() == 3


def test_promotion_whose_history_line_is_missing_is_noted_on_repair(empty: ModelRegistry) -> None:
    empty.versions.register(contents)
    promote(empty, 1)
    (empty.folder / "history.jsonl").write_text("")
    empty.repair()
    assert [(entry.action, entry.to_version) for entry in empty.history.entries()] == [(pb.HISTORY_ACTION_PROMOTED, 1)]


def test_torn_history_line_is_passed_over(empty: ModelRegistry) -> None:
    empty.versions.register(contents)
    promote(empty, 1)
    with (empty.folder / "history.jsonl").open("a") as file:
        file.write('{"action": "HISTORY')
    empty.history.record_refusal(2, empty.alias.read(), "test", "bad")
    assert [entry.to_version for entry in empty.history.entries()] == [1, 2]


def test_newest_versions_champion_and_predecessor_are_kept(empty: ModelRegistry) -> None:
    for _ in range(7):
        empty.versions.register(contents)
    promote(empty, 1)
    promote(empty, 2)
    assert empty.prune() == [4, 3]
    assert empty.versions.numbers() == [7, 6, 5, 2, 1]


def test_reading_a_version_that_does_not_exist_is_not_found(empty: ModelRegistry) -> None:
    for read in (empty.versions.manifest, empty.versions.evaluation, empty.versions.decision):
        with pytest.raises(ModelVersionNotFound):
            read(1)
    with pytest.raises(ModelVersionNotFound):
        empty.versions.file(1, "model.onnx")


def test_stray_folders_are_no_versions(empty: ModelRegistry) -> None:
    empty.versions.register(contents)
    for name in ("snapshots", "1.bak", "-1", "٣"):
        (empty.folder / name).mkdir()
    (empty.folder / "17").write_text("a file")
    assert empty.versions.numbers() == [1]


def test_alias_is_not_moved_when_another_champion_serves_than_was_expected(empty: ModelRegistry) -> None:
    for _ in range(3):
        empty.versions.register(contents)
    promote(empty, 1)
    promote(empty, 2)
    before = empty.alias.read()
    with pytest.raises(ChampionChanged) as raised:
        empty.alias.move(3, empty.alias.next_generation(), pb.HISTORY_ACTION_PROMOTED, "late", "", expected=1)
    assert (raised.value.expected, raised.value.serving) == (1, 2)
    assert before == empty.alias.read()


def test_lock_that_another_process_holds_is_a_failure_of_the_storage(
    empty: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.versions.register(contents)
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.05)
    with FileLock(empty.folder / ".lock"), pytest.raises(StorageFailed, match="another process"):
        promote(empty, 1)
    assert empty.alias.read() is None


def test_refusal_is_recorded_with_the_rules_that_failed(empty: ModelRegistry) -> None:
    refused = b'{"rules": [{"rule": "accuracy_floor", "detail": "0.1"}, {"rule": "model_size", "passed": true}]}'
    empty.versions.register(lambda version: {**contents(version), "decision.json": refused})
    empty.record_refusal(1, "test")
    assert (
        empty.history.entries()[-1].action,
        empty.history.entries()[-1].reason,
    ) == (pb.HISTORY_ACTION_REFUSED, "accuracy_floor: 0.1")
    with pytest.raises(VersionRefused, match="accuracy_floor"):
        empty.versions.check_promotable(1)
