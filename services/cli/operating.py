"""Calls to running services, each on a channel that the caller opened."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
from google.longrunning import operations_pb2
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

CALL_SECONDS = 10
PROMOTION_SECONDS = 60
IMPORT_SECONDS = 300
PIECE_BYTES = 1024 * 1024

Show = Callable[[trainer_pb2.TrainingRun], None]


def classify(channel: grpc.Channel, texts: Sequence[str], top_k: int) -> inference_pb2.BatchClassifyResponse:
    """Return the ranked labels of some texts."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.BatchClassify(inference_pb2.BatchClassifyRequest(texts=texts, top_k=top_k), timeout=CALL_SECONDS)


def explain(channel: grpc.Channel, text: str, top_k: int) -> inference_pb2.Classification:
    """Return the ranked labels of one text and what spoke for the best of them."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    request = inference_pb2.ClassifyRequest(text=text, top_k=top_k, explain=True)
    return stub.Classify(request, timeout=CALL_SECONDS).classification


def retrain(
    channel: grpc.Channel, trigger: "trainer_pb2.Trigger.ValueType", force: bool, validate_only: bool, show: Show
) -> trainer_pb2.TrainingRun:
    """Start a run, show every change of it, and return it as it ended."""
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    operation: operations_pb2.Operation = stub.Retrain(
        trainer_pb2.RetrainRequest(trigger=trigger, force=force, validate_only=validate_only), timeout=CALL_SECONDS
    )
    run = trainer_pb2.TrainingRun()
    operation.metadata.Unpack(run)
    for change in stub.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest(run_id=run.run_id)):
        run = change.run
        show(run)
    return run


def status(channel: grpc.Channel) -> trainer_pb2.GetRetrainStatusResponse:
    """Return whether retraining is due."""
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    return stub.GetRetrainStatus(trainer_pb2.GetRetrainStatusRequest(), timeout=CALL_SECONDS)


def model_status(channel: grpc.Channel) -> inference_pb2.GetModelStatusResponse:
    """Return what serves."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=CALL_SECONDS)


def versions(channel: grpc.Channel) -> trainer_pb2.ListModelVersionsResponse:
    """Return the versions in the registry."""
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    return stub.ListModelVersions(trainer_pb2.ListModelVersionsRequest(), timeout=CALL_SECONDS)


def roll_back(channel: grpc.Channel, by: str, reason: str) -> trainer_pb2.RollbackModelResponse:
    """Bring the former champion back."""
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    return stub.RollbackModel(trainer_pb2.RollbackModelRequest(by=by, reason=reason), timeout=PROMOTION_SECONDS)


def import_examples(
    channel: grpc.Channel, files: Sequence[Path], show: Callable[[float], None]
) -> trainer_pb2.ImportExamplesResponse:
    """Send files of examples, each stored as a whole or not at all; stop at the first that is not.

    Raises:
        OSError: a file cannot be read.

    """
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    total = trainer_pb2.ImportExamplesResponse()
    for number, path in enumerate(files, start=1):
        answer = stub.ImportExamples(_pieces(path.read_bytes(), path.suffix), timeout=IMPORT_SECONDS)
        total.imported += answer.imported
        total.errors.extend(answer.errors)
        show(100 * number / len(files))
        if answer.errors:
            break
    return total


def _pieces(content: bytes, suffix: str) -> Iterator[trainer_pb2.ImportExamplesRequest]:
    csv = suffix.lower() == ".csv"
    file_format = trainer_pb2.EXAMPLES_FORMAT_CSV if csv else trainer_pb2.EXAMPLES_FORMAT_JSON_LINES
    for start in range(0, len(content), PIECE_BYTES):
        yield trainer_pb2.ImportExamplesRequest(data=content[start : start + PIECE_BYTES], format=file_format)
