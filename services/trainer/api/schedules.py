"""`moodfood.trainer.v1.SchedulerService`: checks the requests and passes them to `schedule/scheduler.py`."""

import asyncio
from typing import Any

from moodfood.trainer.v1 import scheduler_pb2 as pb
from moodfood.trainer.v1 import scheduler_pb2_grpc

from services.trainer.api.checks import check_schedule
from services.trainer.schedule.scheduler import Scheduler

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SchedulerService"].full_name


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """The calls of SchedulerService. The proto says what each call does."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def StartSchedule(self, request: pb.StartScheduleRequest, context: Any) -> pb.StartScheduleResponse:
        check_schedule(request.schedule)
        return pb.StartScheduleResponse(state=await asyncio.to_thread(self._scheduler.start, request.schedule))

    async def StopSchedule(self, request: pb.StopScheduleRequest, context: Any) -> pb.StopScheduleResponse:
        return pb.StopScheduleResponse(state=await asyncio.to_thread(self._scheduler.stop))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.GetScheduleResponse:
        return pb.GetScheduleResponse(state=await asyncio.to_thread(self._scheduler.state))
