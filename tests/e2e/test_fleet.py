"""A fleet of two trainers and two replicas, which share a PostgreSQL database and a bucket, and no folder."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import grpc
import pytest
from google.longrunning import operations_grpc_pb2, operations_pb2
from google.rpc import code_pb2
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.registry.v1.manifest_pb2 import ChampionAlias
from moodfood.trainer.v1 import trainer_pb2 as pb
from moodfood.trainer.v1 import trainer_pb2_grpc
from sqlalchemy import func, select

from services.repository.bucket import BucketRepository
from services.trainer.database.database import Database
from services.trainer.database.tables import feedback, queries
from services.trainer.dataset.snapshot import FOLDER, read_snapshot
from services.trainer.dataset.vectors import digest_of, open_vectors, to_keys
from services.trainer.storage import parse_message
from tests.conftest import ENCODER
from tests.databases import PostgresServer
from tests.object_store import ObjectStore
from tests.registries import MODEL
from tests.system import PATIENCE_SECONDS, System, eventually, free_ports

pytestmark = pytest.mark.timeout(240)

STUBS = {
    "inference": inference_pb2_grpc.InferenceServiceStub,
    "trainer": trainer_pb2_grpc.TrainerServiceStub,
    "operations": operations_grpc_pb2.OperationsStub,
}


def call(address: str, service: str, method: str, request: Any, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return an answer. Raises RpcError."""
    with grpc.insecure_channel(address) as channel:
        return getattr(STUBS[service](channel), method)(request, timeout=seconds)


@dataclass
class Fleet:
    """The processes by name, and what they share. `a` and `b` are the trainers, `c` and `d` the replicas."""

    machines: dict[str, System]
    repository: BucketRepository
    database: Database
    postgres: PostgresServer
    store: ObjectStore

    def start(self, name: str) -> None:
        self.machines[name].start("trainer" if name in "ab" else "inference")
        eventually(lambda: self.is_up(name), f"machine {name}")

    def kill(self, name: str) -> None:
        self.machines[name].kill("trainer" if name in "ab" else "inference")

    def is_up(self, name: str) -> bool:
        try:
            return bool(self.list_runs(name) if name in "ab" else self.version(name) >= 0)
        except grpc.RpcError:
            return False

    def trainer(self, name: str, method: str, request: Any) -> Any:
        return call(self.machines[name].trainer, "trainer", method, request)

    def operation(self, name: str, method: str, request: Any) -> Any:
        return call(self.machines[name].trainer, "operations", method, request)

    def list_runs(self, name: str) -> list[str]:
        answer = self.operation(name, "ListOperations", operations_pb2.ListOperationsRequest())
        return [operation.name for operation in answer.operations] or ["none"]

    def run(self, name: str, operation: str) -> pb.TrainingRun:
        request = pb.GetTrainingRunRequest(run_id=operation.removeprefix("operations/"))
        run: pb.TrainingRun = self.trainer(name, "GetTrainingRun", request).run
        return run

    def begin(self, name: str, **request: Any) -> str:
        """Begin a run at a trainer and return its operation."""
        return str(self.trainer(name, "Retrain", pb.RetrainRequest(**request)).name)

    def wait_for(self, name: str, operation: str) -> operations_pb2.Operation:
        """Wait at a trainer until a run has ended."""
        ended: operations_pb2.Operation = self.operation(
            name, "WaitOperation", operations_pb2.WaitOperationRequest(name=operation)
        )
        assert ended.done
        return ended

    def ask(self, name: str, text: str) -> str:
        """Ask a replica and return the id of the query."""
        answer = call(self.machines[name].inference, "inference", "Classify", inference_pb2.ClassifyRequest(text=text))
        return str(answer.classification.query_id)

    def say(self, name: str, label: str = "flavor_spicy", **said: str) -> str:
        """Give feedback at a trainer and return its id."""
        request = pb.SubmitFeedbackRequest(labels=[label], **said)
        return str(self.trainer(name, "SubmitFeedback", request).feedback_id)

    def version(self, name: str) -> int:
        request = inference_pb2.GetModelStatusRequest()
        return int(call(self.machines[name].inference, "inference", "GetModelStatus", request, 5).version)

    def champion(self) -> ChampionAlias:
        stored = self.repository.read("champion")
        alias = parse_message(stored.content if stored else b"", ChampionAlias())
        assert alias is not None
        return alias

    def agrees_on(self, version: int) -> bool:
        """Say whether alias, history and both replicas name one version."""
        last = self.trainer("a", "ListPromotions", pb.ListPromotionsRequest(page_size=1)).entries[0]
        return {self.champion().version, last.to_version, self.version("c"), self.version("d")} == {version}

    def read(self, statement: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(statement))


def stop_all(machines: Sequence[System]) -> None:
    with ThreadPoolExecutor(len(machines)) as pool:
        list(pool.map(System.stop, machines))


@pytest.fixture(scope="module")
def shared_fleet(
    postgres: PostgresServer,
    migrated_postgres: str,
    _object_store: ObjectStore,
    small_data: Path,
    trained_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    folder, url = tmp_path_factory.mktemp("fleet"), _object_store.make_bucket()
    repository = BucketRepository(url, MODEL, folder / "outside")
    for version in (1, 2):
        files = (trained_models / MODEL / str(version)).iterdir()
        repository.add_version(version, {path.name: path.read_bytes() for path in files})
    repository.swap("champion", (trained_models / MODEL / "champion").read_bytes(), None)
    name = postgres.create(migrated_postgres)
    ports = dict(zip("abcd", free_ports(4), strict=True))
    with ExitStack() as ending, closing(Database(postgres.url(name))) as database:
        machines = dict[str, System]()
        ending.callback(lambda: stop_all(list(machines.values())))
        for machine, port in ports.items():
            service = "trainer" if machine in "ab" else "inference"
            shutil.copytree(small_data, folder / machine / "data")
            environment = {
                **os.environ,
                **_object_store.environment,
                "MOODFOOD_MODELS_URL": url,
                "MOODFOOD_MODELS_DIR": str(folder / machine / "models"),
                "MOODFOOD_DATA_DIR": str(folder / machine / "data"),
                "MOODFOOD_MODEL": MODEL,
                "MOODFOOD_ENCODER_DIR": str(ENCODER),
                f"MOODFOOD_{service.upper()}_PORT": str(port),
            }
            if service == "trainer":
                environment |= {
                    "MOODFOOD_DATABASE_URL": postgres.url(name),
                    "MOODFOOD_INFERENCE_TARGETS": f"127.0.0.1:{ports['c']},127.0.0.1:{ports['d']}",
                    "MOODFOOD_TRAINER_METRICS_PORT": "0",
                }
            machines[machine] = System(
                folder / machine / "data", folder / machine / "models", environment, {service: port}
            )
            machines[machine].start(service)
        fleet = Fleet(machines, repository, database, postgres, _object_store)
        eventually(lambda: all(map(fleet.is_up, "abcd")) and fleet.agrees_on(1), "a fleet on version 1")
        yield fleet
    postgres.drop(name)


@pytest.fixture
def fleet(shared_fleet: Fleet, store: ObjectStore) -> Fleet:
    """Four running machines that agree on a champion, whatever a test before has done."""
    for name in "abcd":
        if not shared_fleet.machines[name].processes:
            shared_fleet.start(name)
    eventually(lambda: shared_fleet.agrees_on(shared_fleet.champion().version), "one champion")
    return shared_fleet


@dataclass
class Traffic:
    """What callers of both replicas saw."""

    query_ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def traffic(fleet: Fleet) -> Iterator[Traffic]:
    """Ask both replicas one query after the other until the block ends."""
    seen, over = Traffic(), threading.Event()

    def ask(name: str) -> None:
        while not over.wait(0.01):
            try:
                seen.query_ids.append(fleet.ask(name, "rainy day and so sad"))
            except grpc.RpcError as error:
                seen.failures.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, name) for name in "cd"]
        try:
            yield seen
        finally:
            over.set()
    assert [each.exception() for each in asking] == [None, None]


def test_answer_of_any_replica_can_be_corrected_by_its_id_at_once_at_any_trainer(fleet: Fleet) -> None:
    said = {}
    for replica in "cd":
        for trainer in "ab":
            text = f"glorptastic {replica} {trainer}"
            query_id = fleet.ask(replica, text)
            said[fleet.say(trainer, query_id=query_id)] = text
    assert said == dict(fleet.read(select(feedback.c.feedback_id, feedback.c.text)))


def test_both_trainers_take_feedback_at_once_and_store_a_repeated_request_once(fleet: Fleet) -> None:
    def say(number: int) -> str:
        # Each request goes to both trainers.
        return fleet.say("ab"[number % 2], text=f"at once {number // 2}", user_id="ben", request_id=str(number // 2))

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(say, range(40)))
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 20
    stored = select(feedback.c.feedback_id).where(feedback.c.user_id == "ben")
    assert sorted(set(ids)) == sorted(feedback_id for (feedback_id,) in fleet.read(stored))


def test_run_of_one_trainer_is_seen_waited_for_and_cancelled_at_the_other(fleet: Fleet) -> None:
    operation = fleet.begin("a")
    assert operation in fleet.list_runs("b")
    with pytest.raises(grpc.RpcError, match="in progress"):
        fleet.trainer("b", "Retrain", pb.RetrainRequest())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            fleet.operation, "b", "WaitOperation", operations_pb2.WaitOperationRequest(name=operation)
        )
        fleet.operation("b", "CancelOperation", operations_pb2.CancelOperationRequest(name=operation))
        waited = waiting.result(timeout=30)
    assert waited.error.code == code_pb2.CANCELLED
    assert {fleet.run(name, operation).state for name in "ab"} == {pb.RUN_STATE_CANCELLED}
    assert fleet.machines["a"].children("trainer") == []


def snapshots_with(fleet: Fleet, text: str) -> list[str]:
    names = [PurePosixPath(name).stem for name in fleet.repository.list_files(FOLDER)]
    snapshots = [read_snapshot(name, fleet.repository) for name in names]
    return [each.id for each in snapshots if text in {example.text for example in each.fitted_examples}]


def has_embedding(fleet: Fleet, name: str, text: str) -> bool:
    (path,) = (fleet.machines[name].models / MODEL / "embeddings").glob("*.vectors")
    return bool(open_vectors(path).find(to_keys([digest_of(text)]))[0] >= 0)


def has_logged(fleet: Fleet, name: str, query_id: str) -> bool:
    return query_id in (fleet.machines[name].data / "logs" / "query_logs.jsonl").read_text()


def test_trainer_takes_over_from_a_dead_one_and_what_it_makes_belongs_to_both_until_a_person_is_forgotten(
    fleet: Fleet,
) -> None:
    text, before = "my own porridge", fleet.champion().version
    query_ids = {name: fleet.ask(name, text) for name in "cd"}
    fleet.say("b", "meal_breakfast", query_id=query_ids["c"], user_id="anna")
    abandoned = fleet.begin("a")
    fleet.kill("a")
    eventually(lambda: fleet.run("b", abandoned).state == pb.RUN_STATE_FAILED, "the end of the run of the dead trainer")

    # The other trainer trains and promotes.
    operation = fleet.begin("b")
    fleet.wait_for("b", operation)
    run = fleet.run("b", operation)
    assert (run.state, list(run.reasons)) == (pb.RUN_STATE_SUCCEEDED, [])
    assert {replica.version for replica in run.replicas} == {run.version}
    fleet.start("a")
    assert fleet.agrees_on(run.version)

    # The first one, which is back, can repeat the run and take the promotion back.
    snapshot = run.snapshot.id
    assert [snapshot] == snapshots_with(fleet, text)
    repeated = fleet.begin("a", snapshot_id=snapshot, validate_only=True)
    fleet.operation("a", "CancelOperation", operations_pb2.CancelOperationRequest(name=repeated))
    fleet.trainer("a", "RollbackModel", pb.RollbackModelRequest(expected_champion=run.version))
    assert fleet.agrees_on(before)

    # What a person said leaves every machine, also those that are away meanwhile.
    assert has_embedding(fleet, "b", text)
    assert all(has_logged(fleet, name, query_ids[name]) for name in "cd")
    fleet.kill("b")
    fleet.kill("d")
    deleted = fleet.trainer("a", "DeleteUserData", pb.DeleteUserDataRequest(user_id="anna"))
    assert (deleted.feedback, deleted.queries, deleted.snapshots, deleted.log_lines) == (1, 2, 1, 1)
    assert deleted.replicas_pending == 1
    assert snapshots_with(fleet, text) == []
    fleet.start("b")
    fleet.start("d")
    eventually(lambda: not has_embedding(fleet, "b", text), "the trainer that was away forgets")
    eventually(lambda: not has_logged(fleet, "d", query_ids["d"]), "the replica that was away forgets")
    assert not has_logged(fleet, "c", query_ids["c"])


def test_database_that_is_away_for_a_while_loses_no_answer_and_no_acknowledged_feedback(fleet: Fleet) -> None:
    acknowledged, refused, over = list[str](), Counter[str](), threading.Event()

    def say(name: str) -> None:
        number = 0
        while not over.is_set():
            # A caller repeats a request until it is acknowledged.
            request_id, number = f"{name} {number}", number + 1
            while not over.is_set():
                try:
                    fleet.say(name, text=f"said to {request_id}", user_id="carl", request_id=request_id)
                    acknowledged.append(request_id)
                    break
                except grpc.RpcError as error:
                    refused[f"{error.code().name}: {error.details()}"] += 1
                    time.sleep(0.05)

    with ThreadPoolExecutor(2) as pool, traffic(fleet) as seen:
        asking = [pool.submit(say, name) for name in "ab"]
        eventually(lambda: len(acknowledged) > 10, "feedback before")
        fleet.postgres.stop()
        time.sleep(3)
        answered, given = len(seen.query_ids), len(acknowledged)
        fleet.postgres.start()
        eventually(lambda: len(acknowledged) > given + 10, "feedback afterwards")
        over.set()
    assert [each.exception() for each in asking] == [None, None]
    assert (seen.failures, answered > 50) == ([], True)
    assert refused
    assert {
        f"UNAVAILABLE: {problem}, so nothing was stored; try again in a few seconds"
        for problem in ("the database cannot be reached or used",)
    } == set(refused)
    stored = Counter(request_id for (request_id,) in fleet.read(
        select(feedback.c.request_id).where(feedback.c.user_id == "carl")
    ))  # fmt: skip
    assert set(stored.values()) == {1}
    assert set(acknowledged) <= stored.keys()
    mine = select(func.count(), func.count(queries.c.query_id.distinct())).where(queries.c.query_id.in_(seen.query_ids))
    eventually(lambda: fleet.read(mine) == [(len(seen.query_ids),) * 2], "every answer in the database, once")


def test_bucket_that_refuses_during_a_promotion_leaves_one_champion(fleet: Fleet) -> None:
    champion = fleet.champion()
    before, other = champion.version, 2 if champion.version == 1 else 1

    def promote(name: str) -> bool:
        with suppress(grpc.RpcError):  # the recovery may hold the lease for another moment
            return bool(fleet.trainer(name, "PromoteModel", pb.PromoteModelRequest(version=other)))
        return False

    with traffic(fleet) as seen:
        # The replicas swap, and then the alias cannot be written.
        fleet.store.puts_left = 0
        with pytest.raises(grpc.RpcError, match="no usable answer in time"):
            fleet.trainer("a", "PromoteModel", pb.PromoteModelRequest(version=other))
        # From now on nothing can be read either.
        fleet.store.refuse = 10**9
        count = len(seen.query_ids)
        eventually(lambda: len(seen.query_ids) > count + 20, "answers without a bucket")
        fleet.store.heal()
        eventually(lambda: fleet.champion().generation > champion.generation, "the champion confirmed")
        eventually(lambda: fleet.agrees_on(before), "one champion everywhere")
        eventually(lambda: promote("b"), "the promotion tried again")
    assert seen.failures == []
    assert fleet.agrees_on(other)
