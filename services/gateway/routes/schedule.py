"""Routes of the built-in schedule of training runs."""

from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.trainer.v1 import scheduler_pb2
from msgspec import Meta, Struct

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.refusals import InvalidBody
from services.gateway.routes.fields import Body, Moment, moment, read

TAG = "Schedule"
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAYS_OF_A_MONTH = 31

ScheduleKind = Literal["unspecified", "weekly", "monthly", "adaptive"]


class ScheduleBody(Body):
    """When to ask whether a training run is due; times are UTC."""

    kind: Annotated[
        Literal["weekly", "monthly", "adaptive"], Meta(description="adaptive: every few minutes, see check_minutes")
    ]
    day: Annotated[
        str,
        Meta(
            description="weekly: name of the day, sunday by default; monthly: 1 to 31, the last day in shorter months",
            examples=["sunday", "31"],
        ),
    ] = ""
    hour: Annotated[int, Meta(ge=0, le=23, description="weekly and monthly")] = 3
    minute: Annotated[int, Meta(ge=0, le=59, description="weekly and monthly")] = 0
    check_minutes: Annotated[int, Meta(ge=1, le=1440, description="adaptive: minutes between questions")] = 15


class Schedule(Struct):
    """When it is asked whether a training run is due."""

    kind: ScheduleKind
    day_of_week: Annotated[int, Meta(description="weekly: 1 is Monday, 7 is Sunday; 0 means Sunday")]
    day_of_month: Annotated[int, Meta(description="monthly: 1 to 31; 0 means the first")]
    hour: int
    minute: int
    check_minutes: Annotated[int, Meta(description="adaptive: minutes between questions; 0 means 15")]


class ScheduleAnswer(Struct):
    """The schedule and how it is doing."""

    status: Literal["started", "stopped", "ok"]
    running: bool
    schedule: Annotated[Schedule | None, Meta(description="What was started last; null if nothing ever was")]
    next_run_at: Annotated[Moment | None, Meta(description="When it fires next; null while it is stopped")]
    last_fired_at: Annotated[Moment | None, Meta(description="When it fired last; null if it never did")]
    last_outcome: Annotated[str, Meta(description="What came of that")]


@post(
    "/scheduler/start",
    status_code=200,
    tags=[TAG],
    summary="Start the schedule",
    responses=describe(400, 413),
)
async def start_schedule(data: JSONBody[ScheduleBody], peers: NamedDependency[Peers]) -> ScheduleAnswer:
    """Start a schedule, or replace the one that runs. At each of its times a training run begins if one is due."""
    response = await peers.scheduler.StartSchedule(
        scheduler_pb2.StartScheduleRequest(schedule=translate_body(data)), timeout=peers.training_seconds
    )
    return translate_state("started", response.state)


@post("/scheduler/stop", status_code=200, tags=[TAG], summary="Stop the schedule", responses=describe(400))
async def stop_schedule(peers: NamedDependency[Peers]) -> ScheduleAnswer:
    """Stop the schedule. A training run that is going on is not touched."""
    response = await peers.scheduler.StopSchedule(scheduler_pb2.StopScheduleRequest(), timeout=peers.training_seconds)
    return translate_state("stopped", response.state)


@get("/scheduler/status", tags=[TAG], summary="Show the schedule", responses=describe(400))
async def show_schedule(peers: NamedDependency[Peers]) -> ScheduleAnswer:
    """Say what the schedule is, when it fires next and what came of the last time."""
    response = await peers.scheduler.GetSchedule(scheduler_pb2.GetScheduleRequest(), timeout=peers.training_seconds)
    return translate_state("ok", response.state)


def translate_body(body: ScheduleBody) -> scheduler_pb2.Schedule:
    """Return the schedule that a body asks for.

    Raises:
        InvalidBody: there is no such day.

    """
    if body.kind == "adaptive":
        return scheduler_pb2.Schedule(kind=scheduler_pb2.SCHEDULE_KIND_ADAPTIVE, check_minutes=body.check_minutes)
    if body.kind == "weekly":
        return scheduler_pb2.Schedule(
            kind=scheduler_pb2.SCHEDULE_KIND_WEEKLY,
            day_of_week=_number_weekday(body.day.lower()),
            hour=body.hour,
            minute=body.minute,
        )
    return scheduler_pb2.Schedule(
        kind=scheduler_pb2.SCHEDULE_KIND_MONTHLY,
        day_of_month=_read_day_of_month(body.day),
        hour=body.hour,
        minute=body.minute,
    )


def _number_weekday(day: str) -> int:
    if day and day not in DAYS:
        raise InvalidBody("day", f"use one of {', '.join(DAYS)}")
    return DAYS.index(day) + 1 if day else 0


def _read_day_of_month(day: str) -> int:
    if day and not (day.isdecimal() and 1 <= int(day) <= DAYS_OF_A_MONTH):
        raise InvalidBody("day", "use a day of the month, 1 to 31")
    return int(day or 0)


def translate_state(status: Literal["started", "stopped", "ok"], state: scheduler_pb2.ScheduleState) -> ScheduleAnswer:
    """Return the schedule as callers get it."""
    return ScheduleAnswer(
        status=status,
        running=state.running,
        schedule=read(state.schedule, Schedule) if state.HasField("schedule") else None,
        next_run_at=moment(state.next_run_at),
        last_fired_at=moment(state.last_fired_at),
        last_outcome=state.last_outcome,
    )
