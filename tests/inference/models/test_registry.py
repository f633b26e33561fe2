"""A replica beside a repository that hangs, is away, lags, or is a bucket."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.registry.v1.manifest_pb2 import ChampionAlias

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.classifiers.taxonomy import NO_TAXONOMY
from services.inference.dishes.catalogue import NO_CATALOGUE
from services.inference.dishes.recommender import Recommender
from services.inference.errors import ModelRejected, RegistryUnavailable
from services.inference.models.following import Patience
from services.inference.models.holder import ModelHolder
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.queries.experiment import ExperimentFollower
from services.inference.servicer import InferenceServicer
from services.repository.bucket import BucketRepository
from services.repository.folder import FolderRepository
from services.repository.objects import TimeLimits
from services.repository.repository import Repository
from services.trainer.registry.registry import ModelRegistry
from services.trainer.storage import to_json
from tests.fakes import FakeClassifier
from tests.object_store import ObjectStore
from tests.queries import write_to
from tests.registries import MODEL, promote

pytestmark = pytest.mark.anyio

LIMITS = TimeLimits(request=3.0, retrying=0.3, transfer=5.0)


def replica(repository: Repository) -> tuple[ModelHolder, RegistryReader]:
    registry = RegistryReader(repository, MODEL)
    return ModelHolder(registry, Loader(registry, Stage(StageKind.KEYWORD, FakeClassifier(())), 8, None), 0.0), registry


def servicer(holder: ModelHolder, registry: RegistryReader, folder: Path) -> InferenceServicer:
    recommender, experiments = Recommender(NO_TAXONOMY, NO_CATALOGUE), ExperimentFollower(registry, holder)
    return InferenceServicer(MODEL, holder, registry, recommender, write_to(folder), experiments)


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Let everybody who opens a file wait, as on a network volume whose server is gone: a pipe that nobody writes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        yield
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        path.unlink()


async def test_repository_that_hangs_stops_neither_queries_nor_the_status(models: Path, tmp_path: Path) -> None:
    holder, registry = replica(FolderRepository(models / MODEL))
    await holder.converge()
    service = servicer(holder, registry, tmp_path)
    with hanging(models / MODEL / "champion"):
        looks = [asyncio.create_task(holder.converge()) for _ in range(3)]
        reload = asyncio.create_task(service.ReloadModel(pb.ReloadModelRequest(), None))
        answer = await asyncio.wait_for(service.Classify(pb.ClassifyRequest(text="chocolate"), None), 20)
        status = await asyncio.wait_for(service.GetModelStatus(pb.GetModelStatusRequest(), None), 20)
        assert not any(task.done() for task in (*looks, reload))
        for task in (*looks, reload):
            task.cancel()
    assert (answer.classification.model_version, status.version, status.champion_version) == (1, 1, 1)


async def test_damaged_alias_is_reported_and_the_serving_version_goes_on(
    models: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    holder, reader = replica(FolderRepository(models / MODEL))
    await holder.converge()
    service = servicer(holder, reader, tmp_path)
    for damage in (b"\x00\xff", b'{"version": 2, "gen'):
        (models / MODEL / "champion").write_bytes(damage)
        await holder.converge()
        status = await service.GetModelStatus(pb.GetModelStatusRequest(), None)
        assert (status.version, status.champion_version) == (1, 1)
        assert "the champion alias is damaged" in status.last_reload_error
    registry.alias.repair()
    promote(registry, 2)
    await holder.converge()
    status = await service.GetModelStatus(pb.GetModelStatusRequest(), None)
    assert (status.version, status.last_reload_error) == (2, "")


class Bucket:
    """A bucket with the versions of a registry, and no champion yet."""

    def __init__(self, store: ObjectStore, models: Path) -> None:
        self.url = store.make_bucket()
        self.repository = BucketRepository(self.url, MODEL, models.parent / "trainer", LIMITS)
        for version in (1, 2):
            files = {path.name: path.read_bytes() for path in (models / MODEL / str(version)).iterdir()}
            self.repository.add_version(version, files)

    def promote(self, version: int, generation: int) -> None:
        stored = self.repository.read("champion")
        alias = to_json(ChampionAlias(version=version, generation=generation)).encode()
        self.repository.swap("champion", alias, stored.tag if stored else None)

    def seen_from(self, cache: Path) -> BucketRepository:
        return BucketRepository(self.url, MODEL, cache, LIMITS)


@pytest.fixture
def bucket(store: ObjectStore, models: Path) -> Bucket:
    return Bucket(store, models)


async def test_replica_with_an_empty_cache_fetches_the_champion_and_follows_it(bucket: Bucket, tmp_path: Path) -> None:
    bucket.promote(1, 1)
    holder, _ = replica(bucket.seen_from(tmp_path / "cache"))
    await holder.converge()
    assert (holder.current.version, holder.current.generation) == (1, 1)
    bucket.promote(2, 2)
    await holder.converge()
    assert (holder.current.version, holder.current.generation) == (2, 2)


async def test_bucket_that_is_away_costs_nothing_but_the_news(
    store: ObjectStore, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.promote(1, 1)
    holder, registry = replica(bucket.seen_from(tmp_path / "cache"))
    service = servicer(holder, registry, tmp_path)
    await holder.converge()
    store.refuse = 1000
    for call in (holder.converge(), holder.reload(0, 0)):
        with pytest.raises(RegistryUnavailable, match="no usable answer in time"):
            await call
    status = await service.GetModelStatus(pb.GetModelStatusRequest(), None)
    assert (status.version, status.champion_version) == (1, 1)
    assert "the object store gave no usable answer" in status.last_reload_error
    assert (await holder.reload(1, 0)).already_serving
    store.heal()
    bucket.promote(2, 2)
    await holder.converge()
    assert (holder.current.version, registry.problem) == (2, "")


async def test_replica_that_starts_while_the_bucket_is_away_serves_what_was_served_on_its_machine(
    store: ObjectStore, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.promote(2, 1)
    before, _ = replica(bucket.seen_from(tmp_path / "cache"))
    await before.converge()
    store.refuse = 1000
    after, registry = replica(bucket.seen_from(tmp_path / "cache"))
    with pytest.raises(RegistryUnavailable):
        await after.converge()
    assert (after.current.version, after.current.generation) == (2, 1)
    assert "no usable answer" in registry.problem
    nothing, _ = replica(bucket.seen_from(tmp_path / "another machine"))
    with pytest.raises(RegistryUnavailable):
        await nothing.converge()
    assert nothing.current.version == 0


async def test_older_alias_of_a_lagging_store_is_neither_followed_nor_shown(
    store: ObjectStore, bucket: Bucket, tmp_path: Path
) -> None:
    holder, registry = replica(bucket.seen_from(tmp_path / "cache"))
    bucket.promote(1, 1)
    store.serve_as_it_is(bucket.url, f"{MODEL}/champion")
    older = bucket.repository.read("champion")
    store.heal()
    bucket.promote(2, 2)
    await holder.converge()
    assert older is not None
    store.overwrite(bucket.url, f"{MODEL}/champion", older.content)
    await holder.converge()
    assert (holder.current.version, registry.alias.version if registry.alias else 0) == (2, 2)
    assert (await holder.reload(0, 0)).version == 2


async def test_version_that_is_damaged_in_the_bucket_is_refused_and_the_champion_goes_on(
    store: ObjectStore, bucket: Bucket, tmp_path: Path
) -> None:
    holder, _ = replica(bucket.seen_from(tmp_path / "cache"))
    bucket.promote(1, 1)
    await holder.converge()
    graph = bucket.repository.read("2/model.onnx")
    assert graph is not None
    store.overwrite(bucket.url, f"{MODEL}/2/model.onnx", graph.content[:-1])
    with pytest.raises(ModelRejected, match=r"model\.onnx has"):
        await holder.prepare(2, 2)
    assert holder.current.version == 1
    store.overwrite(bucket.url, f"{MODEL}/2/model.onnx", graph.content)
    assert (await holder.prepare(2, 2)).prepared


async def test_copy_that_was_damaged_on_this_machine_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    holder, registry = replica(bucket.seen_from(tmp_path / "cache"))
    registry.read(1)
    (tmp_path / "cache" / "1" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelRejected):
        registry.read(1)
    assert (await holder.reload(1, 1)).version == 1


async def test_old_copies_are_dropped_except_those_that_serve_or_are_warm(bucket: Bucket, tmp_path: Path) -> None:
    bucket.promote(1, 1)
    cached = bucket.seen_from(tmp_path / "cache")
    holder, _ = replica(cached)
    await holder.converge()
    for version in (3, 4, 5, 6):
        shutil.copytree(tmp_path / "cache" / "1", tmp_path / "cache" / str(version))
    assert cached.copies() == [6, 5, 4, 3, 1]
    bucket.promote(2, 2)
    await holder.converge()
    assert cached.copies() == [6, 5, 4, 2]


def test_what_failed_is_tried_again_after_growing_pauses() -> None:
    now = 0.0
    patience = Patience(lambda: now)
    tries = []
    while now < 200:
        if patience.allows("version 2"):
            tries.append(now)
            patience.note_failure("version 2")
        now += 1
    assert tries == [0, 1, 2, 4, 8, 16, 32, 64, 124, 184]
    assert patience.allows("version 3")
