"""Routes of the built-in schedule."""

from typing import Any

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.trainer.v1 import scheduler_pb2

from services.gateway import answers, schemas
from services.gateway.peers import Peers
from services.gateway.problems import InvalidBody

TAG = "Schedule"
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAYS_OF_A_MONTH = 31

_KINDS = {
    "weekly": scheduler_pb2.SCHEDULE_KIND_WEEKLY,
    "monthly": scheduler_pb2.SCHEDULE_KIND_MONTHLY,
    "adaptive": scheduler_pb2.SCHEDULE_KIND_ADAPTIVE,
}


@post("/scheduler/start", status_code=200, tags=[TAG], summary="Begin a schedule, or replace the one that runs")
async def start_schedule(data: JSONBody[schemas.ScheduleBody], peers: NamedDependency[Peers]) -> dict[str, Any]:
    """At each moment of the schedule a training run begins if one is due."""
    response = await peers.scheduler.StartSchedule(
        scheduler_pb2.StartScheduleRequest(schedule=checked_schedule(data)), timeout=peers.training_seconds
    )
    return {"status": "started", **answers.schedule(response.state)}


@post("/scheduler/stop", status_code=200, tags=[TAG], summary="End the schedule")
async def stop_schedule(peers: NamedDependency[Peers]) -> dict[str, Any]:
    """End the schedule; a run that is going on is not touched."""
    response = await peers.scheduler.StopSchedule(scheduler_pb2.StopScheduleRequest(), timeout=peers.training_seconds)
    return {"status": "stopped", **answers.schedule(response.state)}


@get("/scheduler/status", tags=[TAG], summary="What the schedule is and when it fires next")
async def schedule_status(peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Show the schedule."""
    response = await peers.scheduler.GetSchedule(scheduler_pb2.GetScheduleRequest(), timeout=peers.training_seconds)
    return {"status": "ok", **answers.schedule(response.state)}


def checked_schedule(data: schemas.ScheduleBody) -> scheduler_pb2.Schedule:
    """Translate a body.

    Raises:
        InvalidBody: a name or a day does not exist.

    """
    if data.kind not in _KINDS:
        raise InvalidBody("kind", f"use one of {', '.join(_KINDS)}")
    schedule = scheduler_pb2.Schedule(kind=_KINDS[data.kind])
    if data.kind == "adaptive":
        schedule.check_minutes = data.check_minutes
        return schedule
    schedule.hour, schedule.minute = data.hour, data.minute
    if data.kind == "weekly":
        if data.day and data.day.lower() not in DAYS:
            raise InvalidBody("day", f"use one of {', '.join(DAYS)}")
        schedule.day_of_week = DAYS.index(data.day.lower()) + 1 if data.day else 0
    elif data.day:
        if not data.day.isdecimal() or not 1 <= int(data.day) <= DAYS_OF_A_MONTH:
            raise InvalidBody("day", "use a day of the month, 1 to 31")
        schedule.day_of_month = int(data.day)
    return schedule
