"""`moodfood.trainer.v1.ExperimentService`: translates to and from the owner of experiments."""

from typing import Any

from moodfood.trainer.v1 import experiments_pb2 as pb
from moodfood.trainer.v1 import experiments_pb2_grpc

from services.trainer.api.training import check_who_and_why
from services.trainer.errors import InvalidRequest
from services.trainer.rollout.experiment import Experiments
from services.trainer.rollout.rehearsals import Rehearsals

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ExperimentService"].full_name


class ExperimentServicer(experiments_pb2_grpc.ExperimentServiceServicer):
    """Starts, shows and ends experiments."""

    def __init__(self, experiments: Experiments, rehearsals: Rehearsals) -> None:
        self._experiments = experiments
        self._rehearsals = rehearsals

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: Any) -> pb.StartExperimentResponse:
        """Begin one."""
        check_who_and_why(request.by, "")
        if request.version < 1:
            raise InvalidRequest("version", f"is {request.version}; versions start at 1")
        by = request.by or "api"
        await self._rehearsals.ensure(request.version, by)
        experiment = self._experiments.start(request.kind, request.version, request.share, by)
        return pb.StartExperimentResponse(experiment=experiment)

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Any) -> pb.GetExperimentResponse:
        """Show it."""
        return pb.GetExperimentResponse(experiment=await self._experiments.now())

    async def StopExperiment(self, request: pb.StopExperimentRequest, context: Any) -> pb.StopExperimentResponse:
        """End it."""
        check_who_and_why(request.by, request.reason)
        experiment, promoted = await self._experiments.stop(
            request.by or "api", request.reason or "stopped by hand", promote=request.promote
        )
        return pb.StopExperimentResponse(experiment=experiment, promoted=promoted)
