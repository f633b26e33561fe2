"""Computes when the built-in schedule fires. Pure functions; all times are in UTC."""

import calendar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum


class Kind(Enum):
    """How often a schedule fires."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class Schedule:
    """When to check whether retraining is due.

    Attributes:
        kind: weekly, monthly or adaptive.
        day_of_week: for a weekly schedule, from 0 for Monday to 6 for Sunday.
        day_of_month: for a monthly schedule, 1 to 31; in a shorter month, the last day of the month.
        hour, minute: for a weekly or a monthly schedule, in UTC.
        check_minutes: for an adaptive schedule, minutes between two checks.

    """

    kind: Kind
    day_of_week: int = 6
    day_of_month: int = 1
    hour: int = 3
    minute: int = 0
    check_minutes: int = 15


def next_moment(schedule: Schedule, after: datetime) -> datetime:
    """Return the first time after `after` at which a schedule fires."""
    return _NEXT[schedule.kind](schedule, after)


def _next_week(schedule: Schedule, after: datetime) -> datetime:
    days = (schedule.day_of_week - after.weekday()) % 7
    moment = _at_time(schedule, after + timedelta(days=days))
    return moment if moment > after else moment + timedelta(days=7)


def _next_month(schedule: Schedule, after: datetime) -> datetime:
    year, month = after.year, after.month
    while True:
        day = min(schedule.day_of_month, calendar.monthrange(year, month)[1])
        moment = _at_time(schedule, after.replace(year=year, month=month, day=day))
        if moment > after:
            return moment
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _next_check(schedule: Schedule, after: datetime) -> datetime:
    return after + timedelta(minutes=schedule.check_minutes)


def _at_time(schedule: Schedule, day: datetime) -> datetime:
    return day.replace(hour=schedule.hour, minute=schedule.minute, second=0, microsecond=0)


_NEXT = {Kind.WEEKLY: _next_week, Kind.MONTHLY: _next_month, Kind.ADAPTIVE: _next_check}
