"""Which commands there are, and how a run is followed."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc_testing
import pytest
from google.longrunning import operations_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb
from moodfood.trainer.v1 import trainer_pb2_grpc
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.labels import REMOVED_WHERE
from services.cli.runs import follow, start_run

COMMANDS = (
    "up", "status", "classify", "retrain", "rollback", "train", "evaluate", "backup", "restore", "doctor", "migrate",
    "runs start", "runs list", "runs show", "runs cancel",
    "versions", "versions list", "versions rollback",
    "labels list", "labels resolve", "labels import", "labels export", "labels forget",
    "experiment start shadow", "experiment start canary", "experiment status", "experiment stop",
    "schedule start weekly", "schedule start monthly", "schedule start adaptive", "schedule status", "schedule stop",
)  # fmt: skip
# Names that scripts use; help does not list them.
FORMER_NAMES = (
    "import-examples", "labels review", "experiment shadow", "experiment canary",
    "schedule weekly", "schedule monthly", "schedule adaptive",
)  # fmt: skip


@pytest.mark.parametrize("command", [*COMMANDS, *FORMER_NAMES])
def test_command_exists(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert (result.exit_code, result.output.count("Usage")) == (0, 1)


@pytest.mark.parametrize("command", FORMER_NAMES)
def test_former_names_are_hidden(command: str) -> None:
    *group, name = command.split()
    listed = CliRunner().invoke(app, [*group, "--help"]).output
    assert f"│ {name} " not in listed


def test_every_number_of_a_deletion_is_shown_with_its_place() -> None:
    fields = {field.name for field in pb.DeleteUserDataResponse.DESCRIPTOR.fields}
    assert fields == {*REMOVED_WHERE, "replicas_pending"}


def test_run_is_followed_change_by_change_until_it_ends() -> None:
    """The client against a scripted server: grpcio-testing plays the trainer."""
    service = pb.DESCRIPTOR.services_by_name["TrainerService"]
    channel = grpc_testing.channel([service], grpc_testing.strict_real_time())
    trainer = trainer_pb2_grpc.TrainerServiceStub(channel)
    shown: list[int] = []

    def retrained() -> pb.TrainingRun:
        run_id = start_run(trainer, pb.RetrainRequest(force=True))
        return follow(trainer, run_id, lambda run: shown.append(run.percent))

    with ThreadPoolExecutor(1) as executor:
        followed = executor.submit(retrained)
        _, request, retrain = channel.take_unary_unary(service.methods_by_name["Retrain"])
        operation = operations_pb2.Operation(name="operations/r1")
        operation.metadata.Pack(pb.TrainingRun(run_id="r1"))
        retrain.send_initial_metadata(())
        retrain.terminate(operation, (), grpc.StatusCode.OK, "")
        _, watched, stream = channel.take_unary_stream(service.methods_by_name["WatchTrainingRun"])
        stream.send_initial_metadata(())
        for percent in (8, 70, 100):
            state = pb.RUN_STATE_SUCCEEDED if percent == 100 else pb.RUN_STATE_RUNNING
            stream.send_response(pb.WatchTrainingRunResponse(run=pb.TrainingRun(percent=percent, state=state)))
        stream.terminate((), grpc.StatusCode.OK, "")
        run = followed.result(timeout=10)
    assert (request.force, watched.run_id, shown, run.state) == (True, "r1", [8, 70, 100], pb.RUN_STATE_SUCCEEDED)
