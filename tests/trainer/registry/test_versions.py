"""The versions of a model in a bucket, as two trainers on two machines see them."""

from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb

from services.repository.bucket import BucketRepository
from services.repository.objects import TimeLimits
from services.trainer.errors import ModelVersionNotFound, StorageFailed
from services.trainer.registry.version_records import VersionRecords
from services.trainer.registry.versions import Versions
from tests.object_store import ObjectStore
from tests.registries import database_beside
from tests.trainer.registry.test_registry import contents

LIMITS = TimeLimits(request=3.0, retrying=0.3, transfer=5.0)


@pytest.fixture
def url(store: ObjectStore) -> str:
    return store.make_bucket()


def trainer(url: str, folder: Path) -> Versions:
    """Return the versions as a trainer sees them that has a folder of its own and shares bucket and database."""
    records = VersionRecords(database_beside(folder.parent), "m")
    return Versions(BucketRepository(url, "m", folder, LIMITS), records, lambda: 0)


@pytest.fixture
def ours(url: str, tmp_path: Path) -> Versions:
    return trainer(url, tmp_path / "ours")


@pytest.fixture
def theirs(url: str, tmp_path: Path) -> Versions:
    return trainer(url, tmp_path / "theirs")


def test_version_of_one_trainer_is_read_by_another(ours: Versions, theirs: Versions) -> None:
    assert [ours.register(contents), theirs.register(contents)] == [1, 2]
    assert (theirs.numbers(), ours.manifest(2).version, theirs.file(1, "model.onnx")) == ([2, 1], 2, b"graph")
    with pytest.raises(ModelVersionNotFound):
        ours.file(2, "head.onnx")


def test_rehearsal_that_one_trainer_added_counts_for_another(ours: Versions, theirs: Versions) -> None:
    ours.register(lambda version: {**contents(version), "decision.json": b'{"promoted": true}'})
    assert (theirs.is_rehearsed(1), theirs.decision(1).promoted) == (False, True)
    ours.add_rehearsal(1, pb.Rehearsal(rules=[pb.RuleResult(rule="answers_alike", passed=True)]))
    ours.add_rehearsal(1, pb.Rehearsal(rules=[pb.RuleResult(rule="answers_alike", passed=False)]))
    assert (theirs.is_rehearsed(1), theirs.decision(1).promoted) == (True, False)


def test_number_of_an_upload_that_died_is_passed_over(store: ObjectStore, ours: Versions, theirs: Versions) -> None:
    store.puts_left = 1
    with pytest.raises(StorageFailed, match="no usable answer in time"):
        ours.register(lambda version: {**contents(version), "decision.json": b'{"reason": "of the upload that died"}'})
    store.heal()
    assert theirs.register(contents) == 2
    assert ours.numbers() == [2]


def test_old_versions_are_deleted_for_everybody(ours: Versions, theirs: Versions) -> None:
    for _ in range(4):
        ours.register(contents)
    theirs.file(1, "model.onnx")
    assert ours.delete_all_but(2, {1}) == [2]
    assert theirs.numbers() == [4, 3, 1]


def test_copy_that_was_dropped_meanwhile_is_fetched_again(ours: Versions, tmp_path: Path) -> None:
    ours.register(contents)
    ours.file(1, "model.onnx")
    for path in (tmp_path / "ours" / "1").iterdir():
        path.unlink()
    with pytest.raises(ModelVersionNotFound):
        ours.file(1, "model.onnx")
    (tmp_path / "ours" / "1").rmdir()
    assert ours.file(1, "model.onnx") == b"graph"


def test_bucket_that_is_away_is_a_failure_of_the_storage_and_no_missing_version(
    store: ObjectStore, ours: Versions
) -> None:
    ours.register(contents)
    store.refuse = 1000
    for call in (ours.numbers, lambda: ours.check_promotable(1), lambda: ours.manifest(2), ours.repair):
        with pytest.raises(StorageFailed):
            call()
    assert ours.manifest(1).version == 1
