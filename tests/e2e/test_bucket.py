"""An inference process whose models lie in a bucket, which nothing but the bucket connects to the trainer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1.manifest_pb2 import ChampionAlias

from services.repository.bucket import BucketRepository
from services.trainer.storage import to_json
from tests.conftest import ROOT
from tests.object_store import ObjectStore
from tests.registries import MODEL
from tests.system import System, eventually, free_ports


@pytest.fixture
def repository(store: ObjectStore, trained_models: Path, tmp_path: Path) -> BucketRepository:
    """A bucket with the versions 1 and 2, as a trainer elsewhere sees it."""
    repository = BucketRepository(store.make_bucket(), MODEL, tmp_path / "trainer")
    for version in (1, 2):
        folder = trained_models / MODEL / str(version)
        repository.add_version(version, {path.name: path.read_bytes() for path in folder.iterdir()})
    return repository


def promote(repository: BucketRepository, version: int, generation: int) -> None:
    stored = repository.read("champion")
    alias = to_json(ChampionAlias(version=version, generation=generation)).encode()
    repository.swap("champion", alias, stored.tag if stored else None)


@pytest.fixture
def replica(store: ObjectStore, repository: BucketRepository, tmp_path: Path) -> Iterator[System]:
    """An inference process that has nothing but an empty folder and the address of the bucket."""
    (tmp_path / "replica").mkdir()
    environment = {
        **store.environment,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "MOODFOOD_MODELS_URL": repository.url,
        "MOODFOOD_MODELS_DIR": str(tmp_path / "replica" / "models"),
        "MOODFOOD_DATA_DIR": str(tmp_path / "replica" / "data"),
        "MOODFOOD_ENCODER_DIR": str(tmp_path / "no encoder"),
        "MOODFOOD_MODEL": MODEL,
        "MOODFOOD_INFERENCE_PORT": str(port := free_ports(1)[0]),
    }
    running = System(tmp_path / "replica", tmp_path / "replica" / "models", environment, {"inference": port})
    yield running
    running.stop()


def call(replica: System, method: str, request: Any) -> Any:
    """Return the answer; None while nobody answers."""
    with grpc.insecure_channel(replica.inference) as channel:
        try:
            return getattr(inference_pb2_grpc.InferenceServiceStub(channel), method)(request, timeout=5)
        except grpc.RpcError:
            return None


def version(replica: System) -> int:
    return getattr(call(replica, "GetModelStatus", pb.GetModelStatusRequest()), "version", -1)


def test_replica_with_nothing_of_its_own_serves_and_follows_a_bucket_also_when_it_is_away_for_a_while(
    store: ObjectStore, repository: BucketRepository, replica: System
) -> None:
    promote(repository, 1, 1)
    replica.start("inference")
    eventually(lambda: version(replica) == 1, "serving the champion of the bucket")
    promote(repository, 2, 2)
    eventually(lambda: version(replica) == 2, "following the alias")

    store.refuse = 10**9
    store.requests.clear()
    eventually(lambda: store.requests, "a look at the bucket that is away")
    answer = call(replica, "Classify", pb.ClassifyRequest(text="chocolate please"))
    assert (answer.classification.model_version, answer.classification.intents[0].label) == (2, "flavor_chocolate")
    store.heal()
    promote(repository, 1, 3)
    eventually(lambda: version(replica) == 1, "following the alias of the bucket that is back")
