"""The one way to reach a service: deadlines, errors in one line, long answers."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import typer
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from services.cli.connection import TRAINER, reach
from services.transport.errors import DETAILS_KEY


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Lists very many versions, hangs on the status, and refuses to go back."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def ListModelVersions(self, request: Any, context: Any) -> trainer_pb2.ListModelVersionsResponse:
        return trainer_pb2.ListModelVersionsResponse(model="x" * 8_000_000)

    def GetRetrainStatus(self, request: Any, context: Any) -> trainer_pb2.GetRetrainStatusResponse:
        self.over.wait(30)
        return trainer_pb2.GetRetrainStatusResponse()

    def RollbackModel(self, request: Any, context: Any) -> trainer_pb2.RollbackModelResponse:
        context.set_trailing_metadata(((DETAILS_KEY, b""),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "the disk is full")
        raise AssertionError


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    servicer = Trainer()  # type: ignore[abstract]  # the base class answers the other calls with UNIMPLEMENTED
    server = grpc.server(ThreadPoolExecutor(4))
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("MOODFOOD_TRAINER_ADDRESS", f"127.0.0.1:{port}")
    yield servicer
    servicer.over.set()
    server.stop(None).wait()


def test_answers_over_4_mib_arrive(trainer: Trainer) -> None:
    with reach(TRAINER) as stub:
        answer = stub.ListModelVersions(trainer_pb2.ListModelVersionsRequest())
    assert len(answer.model) == 8_000_000


def test_a_service_that_hangs_is_one_line_when_the_deadline_is_over(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), reach(TRAINER, 0.2) as stub:
        stub.GetRetrainStatus(trainer_pb2.GetRetrainStatusRequest())
    (line,) = capsys.readouterr().err.splitlines()
    assert "did not answer in time" in line


def test_an_error_that_the_service_tells_is_shown_as_told(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reach(TRAINER) as stub:
        stub.RollbackModel(trainer_pb2.RollbackModelRequest())
    assert capsys.readouterr().err == "moodfood: UNAVAILABLE: the disk is full\n"


def test_a_service_that_is_not_there_is_one_line_that_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOODFOOD_TRAINER_ADDRESS", "127.0.0.1:1")
    with pytest.raises(typer.Exit) as ended, reach(TRAINER) as stub:
        stub.GetRetrainStatus(trainer_pb2.GetRetrainStatusRequest())
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.exit_code == 1
    assert "nothing answers at 127.0.0.1:1; start it with `moodfood up`" in line
