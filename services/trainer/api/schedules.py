"""`moodfood.trainer.v1.SchedulerService`: checks a schedule and hands it to the scheduler."""

from typing import Any

from moodfood.trainer.v1 import scheduler_pb2 as pb
from moodfood.trainer.v1 import scheduler_pb2_grpc

from services.trainer.errors import InvalidRequest
from services.trainer.schedule.scheduler import Scheduler

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SchedulerService"].full_name

_HIGHEST = {"day_of_week": 7, "day_of_month": 31, "hour": 23, "minute": 59, "check_minutes": 1440}


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Starts, stops and shows the schedule."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def StartSchedule(self, request: pb.StartScheduleRequest, context: Any) -> pb.StartScheduleResponse:
        """Begin a schedule."""
        check_schedule(request.schedule)
        return pb.StartScheduleResponse(state=self._scheduler.start(request.schedule))

    async def StopSchedule(self, request: pb.StopScheduleRequest, context: Any) -> pb.StopScheduleResponse:
        """End the schedule."""
        return pb.StopScheduleResponse(state=self._scheduler.stop())

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.GetScheduleResponse:
        """Show the schedule."""
        return pb.GetScheduleResponse(state=self._scheduler.state())


def check_schedule(schedule: pb.Schedule) -> None:
    """Raise InvalidRequest when a schedule has a field that means nothing."""
    if schedule.kind not in pb.ScheduleKind.values() or schedule.kind == pb.SCHEDULE_KIND_UNSPECIFIED:
        raise InvalidRequest("schedule.kind", "is none of weekly, monthly and adaptive")
    for field, highest in _HIGHEST.items():
        value = getattr(schedule, field)
        if not 0 <= value <= highest:
            raise InvalidRequest(f"schedule.{field}", f"is {value}; the highest is {highest}")
