"""When training runs are due by the calendar. Pure functions of a schedule and a moment; times are UTC."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from apscheduler.triggers.cron import CronTrigger

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Kind(Enum):
    """How the moments of a schedule are found."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class Schedule:
    """When to ask whether a run is due.

    Attributes:
        day_of_week: 0 is Monday; for weekly ones.
        day_of_month: 1 to 31, the last day in shorter months; for monthly ones.
        hour, minute: UTC; for weekly and monthly ones.
        check_minutes: how often; for adaptive ones.

    """

    kind: Kind
    day_of_week: int = 6
    day_of_month: int = 1
    hour: int = 3
    minute: int = 0
    check_minutes: int = 15


def next_moment(schedule: Schedule, after: datetime) -> datetime:
    """Return the first moment of a schedule after another."""
    if schedule.kind is Kind.ADAPTIVE:
        return after + timedelta(minutes=schedule.check_minutes)
    if schedule.kind is Kind.WEEKLY:
        return _first(after, day_of_week=schedule.day_of_week, hour=schedule.hour, minute=schedule.minute)
    wanted = {"hour": schedule.hour, "minute": schedule.minute}
    on_the_day, on_the_last = _first(after, day=schedule.day_of_month, **wanted), _first(after, day="last", **wanted)
    # The last day of a month that lacks the day comes first only then.
    lacks = on_the_last < on_the_day and on_the_last.day < schedule.day_of_month
    return on_the_last if lacks else on_the_day


def _first(after: datetime, **fields: object) -> datetime:
    moment = CronTrigger(timezone="UTC", **fields).get_next_fire_time(None, after + timedelta(seconds=1))
    if not isinstance(moment, datetime):
        raise ValueError(f"no moment ever comes for {fields}")
    return moment
