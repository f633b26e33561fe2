"""Versions and the champion on the embedded database: what is visible, what is kept, what is mended."""

import os
import shutil
from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb
from structlog.testing import capture_logs

from services.repository.disk import UNFINISHED_PREFIX
from services.trainer.errors import ChampionChanged, ModelVersionNotFound, StorageFailed, VersionRefused
from services.trainer.registry.registry import ModelRegistry
from tests.registries import history_of, open_registry, promote


def contents(version: int) -> dict[str, bytes]:
    manifest = f'{{"model": "m", "version": {version}}}'.encode()
    return {"manifest.json": manifest, "model.onnx": b"graph", "evaluation.json": b"{}", "decision.json": b"{}"}


@pytest.fixture
def empty(tmp_path: Path) -> ModelRegistry:
    return open_registry(tmp_path, "m", keep_versions=3)


def test_versions_count_up_and_are_never_used_twice(empty: ModelRegistry) -> None:
    assert [empty.versions.register(contents), empty.versions.register(contents)] == [1, 2]
    empty.history.record_refusal(7, None, "test", "gone since")
    assert empty.versions.register(contents) == 8
    assert empty.versions.numbers() == [8, 2, 1]


def test_version_that_is_registered_while_another_trainer_mends_stays_listed(
    empty: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose trainer was taken for dead registers its version at the worst moment."""
    empty.versions.register(contents)
    real, listed = empty.records.list_there, list[int]()

    def list_there() -> dict[int, str]:
        if not listed:
            listed.append(empty.versions.register(contents))
        return real()

    with monkeypatch.context() as patched:
        patched.setattr(empty.records, "list_there", list_there)
        empty.repair()
    assert [record.version for record in empty.versions.list_newest(10)] == [2, 1]


def test_champion_is_kept_although_a_lagging_store_shows_an_older_alias(
    empty: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        empty.versions.register(contents)
    promote(empty, 6)
    older = empty.repository.read("champion")
    promote(empty, 1)
    monkeypatch.setattr(empty.repository, "read", lambda _: older)
    assert empty.prune() == [3, 2]
    assert empty.versions.numbers() == [6, 5, 4, 1]


def test_half_written_version_is_never_visible_and_is_removed_later(
    empty: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.versions.register(contents)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("services.repository.folder.write_synced", full)
        with pytest.raises(StorageFailed, match="No space left"):
            empty.versions.register(contents)
    leftover = empty.folder / f"{UNFINISHED_PREFIX}killed"
    leftover.mkdir()
    os.utime(leftover, (0, 0))
    assert empty.versions.numbers() == [1] == [record.version for record in empty.versions.list_newest(10)]
    empty.repair()
    assert not leftover.exists()
    assert empty.versions.register(contents) == 3


def test_alias_says_who_when_why_and_its_generation_grows(empty: ModelRegistry) -> None:
    empty.versions.register(contents)
    empty.versions.register(contents)
    promote(empty, 1)
    alias = promote(empty, 2, reason="better")
    assert (alias.version, alias.generation, alias.previous, alias.by, alias.reason) == (2, 2, 1, "test", "better")
    assert alias == empty.alias.read()
    assert [(entry.from_version, entry.to_version) for entry in history_of(empty)] == [(0, 1), (1, 2)]


def test_damaged_alias_is_read_from_the_history_and_written_anew(empty: ModelRegistry) -> None:
    promote(empty, 1)
    before = promote(empty, 2)
    for damage in (b"", b'{"version": 1, "gen', b"\xff\x00"):
        (empty.folder / "champion").write_bytes(damage)
        assert before == empty.alias.read()
        assert empty.alias.next_generation() == 3
        empty.repair()
        assert before == open_registry(empty.folder.parent, "m").alias.read()
        assert b'"generation": 2' in (empty.folder / "champion").read_bytes()


def test_newest_versions_champion_and_predecessor_are_kept_and_rows_of_the_others_stay(empty: ModelRegistry) -> None:
    for _ in range(7):
        empty.versions.register(contents)
    promote(empty, 1)
    promote(empty, 2)
    assert empty.prune() == [4, 3]
    assert empty.versions.numbers() == [7, 6, 5, 2, 1]
    assert [record.version for record in empty.versions.list_newest(10)] == [7, 6, 5, 2, 1]
    assert empty.versions.manifest(3).version == 3
    with pytest.raises(ModelVersionNotFound):
        empty.versions.check_promotable(3)


def test_reading_a_version_that_does_not_exist_is_not_found(empty: ModelRegistry) -> None:
    for read in (empty.versions.manifest, empty.versions.evaluation, empty.versions.decision):
        with pytest.raises(ModelVersionNotFound):
            read(1)
    with pytest.raises(ModelVersionNotFound):
        empty.versions.file(1, "model.onnx")


def test_alias_is_not_moved_when_another_champion_serves_than_was_expected(empty: ModelRegistry) -> None:
    promote(empty, 1)
    promote(empty, 2)
    before = empty.alias.read()
    with pytest.raises(ChampionChanged) as raised:
        empty.alias.move(3, empty.alias.next_generation(), pb.HISTORY_ACTION_PROMOTED, "late", "", expected=1)
    assert (raised.value.expected, raised.value.serving) == (1, 2)
    assert before == empty.alias.read()
    assert empty.alias.pending() is None


def test_refusal_is_recorded_with_the_rules_that_failed_and_outlives_its_version(empty: ModelRegistry) -> None:
    refused = b'{"rules": [{"rule": "accuracy_floor", "detail": "0.1"}, {"rule": "model_size", "passed": true}]}'
    empty.versions.register(lambda version: {**contents(version), "decision.json": refused})
    empty.record_refusal(1, "test")
    last = history_of(empty)[-1]
    assert (last.action, last.reason) == (pb.HISTORY_ACTION_REFUSED, "accuracy_floor: 0.1")
    with pytest.raises(VersionRefused, match="accuracy_floor"):
        empty.versions.check_promotable(1)
    empty.versions.delete_all_but(0, ())
    assert [rule.rule for rule in empty.versions.list_failed_rules(1)] == ["accuracy_floor"]


def test_version_whose_row_is_missing_is_read_from_its_folder_and_adopted(tmp_path: Path, empty: ModelRegistry) -> None:
    """As after a crash between folder and row, or in a database that was restored from an older backup."""
    refused = b'{"promoted": true, "rules": [{"rule": "accuracy_floor", "passed": true}]}'
    report = b'{"rules": [{"rule": "rehearsal_loads"}]}'
    empty.versions.register(lambda version: {**contents(version), "decision.json": refused, "rehearsal.json": report})
    for file in tmp_path.glob("moodfood.db*"):
        file.unlink()
    restored = open_registry(tmp_path, "m")
    for mended in (False, True):
        assert restored.versions.is_rehearsed(1)
        assert [rule.rule for rule in restored.versions.list_failed_rules(1)] == ["rehearsal_loads"]
        assert [1] * mended == [record.version for record in restored.versions.list_newest(10)]
        restored.repair()
    assert restored.versions.register(contents) == 2


def test_empty_database_beside_versions_is_told_when_they_are_adopted(tmp_path: Path, empty: ModelRegistry) -> None:
    with capture_logs() as lines:
        empty.repair()
        empty.versions.register(contents)
        empty.repair()
    assert lines == []
    shutil.copytree(empty.folder, tmp_path / "moved" / "m")
    with capture_logs() as lines:
        registry = open_registry(tmp_path / "moved", "m")
        registry.repair()
        registry.repair()
    assert [line["event"] for line in lines] == ["the database is empty, although there are versions"]


def test_version_whose_folder_is_gone_is_not_listed_after_repair_and_is_again_when_it_is_back(
    empty: ModelRegistry,
) -> None:
    empty.versions.register(contents)
    empty.versions.add_rehearsal(1, pb.Rehearsal(rules=[pb.RuleResult(rule="rehearsal_loads", passed=True)]))
    for name, listed in (("elsewhere", []), ("1", [1])):
        (empty.folder / ("1" if name == "elsewhere" else "elsewhere")).rename(empty.folder / name)
        empty.repair()
        assert listed == [record.version for record in empty.versions.list_newest(10)]
    assert empty.versions.is_rehearsed(1)
