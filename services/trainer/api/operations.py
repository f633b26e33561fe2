"""`google.longrunning.Operations`: every training run is an operation, and its metadata is the TrainingRun."""

import asyncio
from typing import Any

from google.longrunning import operations_grpc_pb2, operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.api.checks import check_page_size, read_run_id
from services.trainer.errors import InvalidRequest, NotSupported
from services.trainer.runs.record import operation_name
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore

_ERROR_CODES = {
    pb.RUN_STATE_REJECTED: code_pb2.FAILED_PRECONDITION,
    pb.RUN_STATE_FAILED: code_pb2.INTERNAL,
    pb.RUN_STATE_CANCELLED: code_pb2.CANCELLED,
}


def operation_of(run: pb.TrainingRun) -> operations_pb2.Operation:
    """Return a run as an operation.

    The result is an error when the run was refused, failed or cancelled. Otherwise it is a RetrainResponse.
    """
    operation = operations_pb2.Operation(name=operation_name(run.run_id), done=run.state != pb.RUN_STATE_RUNNING)
    operation.metadata.Pack(run)
    if run.state in _ERROR_CODES:
        operation.error.code = _ERROR_CODES[run.state]
        operation.error.message = "; ".join(run.reasons)
    elif operation.done:
        operation.response.Pack(pb.RetrainResponse(run=run))
    return operation


def list_page(store: RunStore, size: int, page_token: str) -> tuple[list[pb.TrainingRun], str]:
    """Return a page of runs, newest first, and the token of the next page; empty when there is none.

    Raises TrainingRunNotFound and InvalidRequest for a token that no page gave.
    """
    last = read_run_id(page_token) if page_token else ""
    if last:
        store.get(last)
    runs = store.newest_first(size + 1, before=last)
    return runs[:size], operation_name(runs[size - 1].run_id) if len(runs) > size else ""


class OperationsServicer(operations_grpc_pb2.OperationsServicer):
    """Offers Get, List, Cancel and Wait. It does not offer Delete, because the runs are the history of the model."""

    def __init__(self, runner: Runner, store: RunStore) -> None:
        self._runner = runner
        self._store = store

    async def GetOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        return operation_of(await asyncio.to_thread(self._store.get, read_run_id(request.name)))

    async def ListOperations(self, request: Any, context: Any) -> operations_pb2.ListOperationsResponse:
        if request.filter:
            raise InvalidRequest("filter", "is not supported; leave it out")
        size = check_page_size(request.page_size)
        page, next_page_token = await asyncio.to_thread(list_page, self._store, size, request.page_token)
        return operations_pb2.ListOperationsResponse(
            operations=[operation_of(run) for run in page], next_page_token=next_page_token
        )

    async def CancelOperation(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._runner.cancel(read_run_id(request.name))
        return empty_pb2.Empty()

    async def WaitOperation(self, request: Any, context: Any) -> operations_pb2.Operation:
        seconds = request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else None
        return operation_of(await self._runner.wait(read_run_id(request.name), seconds))

    async def DeleteOperation(self, request: Any, context: Any) -> empty_pb2.Empty:
        raise NotSupported("training runs are the history of the model and cannot be deleted; cancel one to end it")
