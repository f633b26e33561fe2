"""Checks of requests. Every check raises InvalidRequest, which names the field and says what to send instead."""

from moodfood.trainer.v1 import scheduler_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import InvalidRequest

MAX_NAME_CHARS = 128
MAX_REASON_CHARS = 1000
MAX_PAGE = 1000
DEFAULT_PAGE = 50

# Triggers that only the trainer itself may use.
_OWN_TRIGGERS = frozenset({pb.TRIGGER_FIRST_MODEL, pb.TRIGGER_SCHEDULED, pb.TRIGGER_DRIFT})
_HIGHEST = {"day_of_week": 7, "day_of_month": 31, "hour": 23, "minute": 59, "check_minutes": 1440}


def check_name(field: str, name: str) -> None:
    """Refuse a name with more than MAX_NAME_CHARS characters, or with one that databases do not store."""
    if "\0" in name:
        raise InvalidRequest(field, "contains a NUL character; send plain text")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequest(field, f"has {len(name):,} characters; send at most {MAX_NAME_CHARS}")


def check_who_and_why(by: str, reason: str) -> None:
    """Refuse a name with more than MAX_NAME_CHARS characters, or a reason with more than MAX_REASON_CHARS."""
    check_name("by", by)
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidRequest("reason", f"has {len(reason):,} characters; send at most {MAX_REASON_CHARS:,}")


def check_version(field: str, version: int, lowest: int = 1) -> None:
    """Refuse a number below `lowest`, which is 1, or 0 where 0 has a meaning of its own."""
    if version < lowest:
        raise InvalidRequest(field, f"is {version}; send the number of a version, 1 or more")


def check_page_size(asked: int) -> int:
    """Return the page size, 1 to MAX_PAGE; 0 becomes DEFAULT_PAGE."""
    if not 0 <= asked <= MAX_PAGE:
        raise InvalidRequest("page_size", f"is {asked}; send 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    return asked or DEFAULT_PAGE


def check_trigger(trigger: "pb.Trigger.ValueType") -> "pb.Trigger.ValueType":
    """Return the trigger; the default is TRIGGER_API_TRIGGERED."""
    if trigger not in pb.Trigger.values() or trigger in _OWN_TRIGGERS:
        raise InvalidRequest("trigger", "is not valid; send api_triggered, cron_triggered or manual")
    return trigger or pb.TRIGGER_API_TRIGGERED


def check_schedule(schedule: scheduler_pb2.Schedule) -> None:
    """Refuse a schedule without a kind, or with a number that is out of range."""
    kinds = scheduler_pb2.ScheduleKind
    if schedule.kind not in kinds.values() or schedule.kind == scheduler_pb2.SCHEDULE_KIND_UNSPECIFIED:
        raise InvalidRequest("schedule.kind", "is not valid; send weekly, monthly or adaptive")
    for field, highest in _HIGHEST.items():
        value = getattr(schedule, field)
        if not 0 <= value <= highest:
            raise InvalidRequest(f"schedule.{field}", f"is {value}; send 0 to {highest}")


def read_run_id(operation: str) -> str:
    """Return the run id from the name of an operation."""
    prefix, _, run_id = operation.partition("/")
    if prefix != "operations" or not run_id:
        raise InvalidRequest("name", 'is not the name of an operation; send "operations/<run_id>"')
    return run_id
