"""`moodfood.trainer.v1.ExperimentService`: checks the requests and passes them to `rollout/experiment.py`."""

from typing import Any

from moodfood.trainer.v1 import experiments_pb2 as pb
from moodfood.trainer.v1 import experiments_pb2_grpc

from services.trainer.api.checks import check_version, check_who_and_why
from services.trainer.rollout.experiment import Experiments

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ExperimentService"].full_name


class ExperimentServicer(experiments_pb2_grpc.ExperimentServiceServicer):
    """The calls of ExperimentService. The proto says what each call does."""

    def __init__(self, experiments: Experiments) -> None:
        self._experiments = experiments

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: Any) -> pb.StartExperimentResponse:
        check_who_and_why(request.by, "")
        check_version("version", request.version)
        by = request.by or "api"
        experiment = await self._experiments.start(request.kind, request.version, request.share, by)
        return pb.StartExperimentResponse(experiment=experiment)

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Any) -> pb.GetExperimentResponse:
        return pb.GetExperimentResponse(experiment=await self._experiments.now())

    async def StopExperiment(self, request: pb.StopExperimentRequest, context: Any) -> pb.StopExperimentResponse:
        check_who_and_why(request.by, request.reason)
        experiment, promoted = await self._experiments.stop(
            request.by or "api", request.reason or "stopped by hand", promote=request.promote
        )
        return pb.StopExperimentResponse(experiment=experiment, promoted=promoted)
