"""Checks of requests: each raises InvalidRequest, which names the field at fault and says what to send."""

from moodfood.trainer.v1 import scheduler_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import InvalidRequest

MAX_NAME_CHARS = 128
MAX_REASON_CHARS = 1000
MAX_PAGE = 1000
DEFAULT_PAGE = 50

# What only the trainer itself may name as the reason for a run.
_OWN_TRIGGERS = frozenset({pb.TRIGGER_FIRST_MODEL, pb.TRIGGER_SCHEDULED, pb.TRIGGER_DRIFT})
_HIGHEST = {"day_of_week": 7, "day_of_month": 31, "hour": 23, "minute": 59, "check_minutes": 1440}


def check_name(field: str, name: str) -> None:
    """Refuse a name that is too long."""
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequest(field, f"is longer than {MAX_NAME_CHARS} characters")


def check_who_and_why(by: str, reason: str) -> None:
    """Refuse a name or a reason that is too long."""
    check_name("by", by)
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidRequest("reason", f"is longer than {MAX_REASON_CHARS} characters")


def check_version(field: str, version: int, lowest: int = 1) -> None:
    """Refuse a number that no version can have."""
    if version < lowest:
        raise InvalidRequest(field, f"is {version}; versions start at 1")


def check_page_size(asked: int) -> int:
    """Return the page size, or the default for 0."""
    if not 0 <= asked <= MAX_PAGE:
        raise InvalidRequest("page_size", f"is {asked}; use 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    return asked or DEFAULT_PAGE


def check_trigger(trigger: "pb.Trigger.ValueType") -> "pb.Trigger.ValueType":
    """Return the trigger, the API's own when none is named."""
    if trigger not in pb.Trigger.values() or trigger in _OWN_TRIGGERS:
        raise InvalidRequest("trigger", "is none of api_triggered, cron_triggered and manual")
    return trigger or pb.TRIGGER_API_TRIGGERED


def check_schedule(schedule: scheduler_pb2.Schedule) -> None:
    """Refuse a schedule with a field that means nothing."""
    kinds = scheduler_pb2.ScheduleKind
    if schedule.kind not in kinds.values() or schedule.kind == scheduler_pb2.SCHEDULE_KIND_UNSPECIFIED:
        raise InvalidRequest("schedule.kind", "is none of weekly, monthly and adaptive")
    for field, highest in _HIGHEST.items():
        value = getattr(schedule, field)
        if not 0 <= value <= highest:
            raise InvalidRequest(f"schedule.{field}", f"is {value}; the highest is {highest}")


def read_run_id(operation: str) -> str:
    """Return the run of an operation's name."""
    prefix, _, run_id = operation.partition("/")
    if prefix != "operations" or not run_id:
        raise InvalidRequest("name", 'must look like "operations/<run_id>"')
    return run_id
