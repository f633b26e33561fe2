"""Two trainers on the same folders: whatever asks, one run goes on, and both know of it."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.longrunning import operations_grpc_pb2, operations_pb2
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from tests.system import System, eventually, free_ports

pytestmark = pytest.mark.timeout(240)


def retrain(address: str, trigger: trainer_pb2.Trigger.ValueType) -> str:
    """Return the operation that began, or what was said instead."""
    with grpc.insecure_channel(address) as channel:
        stub = trainer_pb2_grpc.TrainerServiceStub(channel)
        try:
            return str(stub.Retrain(trainer_pb2.RetrainRequest(trigger=trigger, force=True), timeout=10).name)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"


def test_triggers_at_both_trainers_make_one_run_that_both_show(live: System) -> None:
    (port,) = free_ports(1)
    second = f"127.0.0.1:{port}"
    live.environment["MOODFOOD_TRAINER_PORT"] = str(port)
    first = live.processes.pop("trainer")
    live.start("trainer")
    live.processes["first trainer"] = first
    health = operations_pb2.ListOperationsRequest()

    def up() -> bool:
        with grpc.insecure_channel(second) as channel:
            try:
                return bool(operations_grpc_pb2.OperationsStub(channel).ListOperations(health, timeout=1) is not None)
            except grpc.RpcError:
                return False

    eventually(up, "the second trainer")
    asked = [
        (live.trainer, trainer_pb2.TRIGGER_CRON_TRIGGERED),
        (second, trainer_pb2.TRIGGER_API_TRIGGERED),
        (second, trainer_pb2.TRIGGER_CRON_TRIGGERED),
        (live.trainer, trainer_pb2.TRIGGER_MANUAL),
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda each: retrain(*each), asked))
    (begun,) = [answer for answer in answers if answer.startswith("operations/")]
    refused = [answer for answer in answers if not answer.startswith("operations/")]
    assert all(answer.startswith("ABORTED") for answer in refused), refused
    run = live.ended(begun.removeprefix("operations/"))
    assert run["state"] == "succeeded", run
    with grpc.insecure_channel(second) as channel:
        shown = operations_grpc_pb2.OperationsStub(channel).GetOperation(
            operations_pb2.GetOperationRequest(name=begun), timeout=5
        )
    assert shown.done
    assert len([event for event in live.events() if event["status"] == "started"]) == 1
