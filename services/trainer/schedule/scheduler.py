"""Asks for training runs by a schedule that lies in a file, so that it survives restarts and is one for all trainers.

Every few seconds the file is read. Whoever finds its moment passed moves it on, under a lock, before asking for the
run: so several trainers make one run of it, and moments that passed while none was up are caught up by one run. A clock
that was set back is noticed by a moment that lies too far ahead.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from filelock import FileLock
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.trainer.v1 import scheduler_pb2 as pb

from services.trainer.errors import TrainerError
from services.trainer.schedule.calendar import Kind, Schedule, next_moment
from services.trainer.storage import replace_file, to_json

TICK_SECONDS = 5
LOCK_SECONDS = 10

_KINDS = {
    pb.SCHEDULE_KIND_WEEKLY: Kind.WEEKLY,
    pb.SCHEDULE_KIND_MONTHLY: Kind.MONTHLY,
    pb.SCHEDULE_KIND_ADAPTIVE: Kind.ADAPTIVE,
}

_log = structlog.get_logger()

# Asks for a run if one is due, and says in a few words what came of it; silent when nothing was due and False is given.
Ask = Callable[[bool], Awaitable[str]]


class Scheduler:
    """Owner of the schedule's file. Lives on the event loop."""

    def __init__(self, path: Path, ask: Ask, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._ask = ask
        self._now = now
        self._ticker = AsyncIOScheduler(timezone="UTC")

    def begin(self) -> None:
        """Look at the schedule from now on."""
        self._ticker.add_job(
            self.tick, "interval", seconds=TICK_SECONDS, next_run_time=datetime.now(UTC), max_instances=1, coalesce=True
        )
        self._ticker.start()

    def end(self) -> None:
        """Look no more; the schedule stays."""
        if self._ticker.running:
            self._ticker.shutdown(wait=False)

    def state(self) -> pb.ScheduleState:
        """Return the schedule, whether it runs, and when it fires next; a stopped one if the file cannot be read."""
        try:
            text = self._path.read_text(encoding="utf-8")
            return json_format.Parse(text, pb.ScheduleState(), ignore_unknown_fields=True)
        except FileNotFoundError:
            return pb.ScheduleState()
        except (OSError, ValueError, json_format.ParseError):
            _log.error("the schedule's file is damaged; start the schedule anew", path=self._path.name)
            return pb.ScheduleState()

    def start(self, schedule: pb.Schedule) -> pb.ScheduleState:
        """Begin a schedule, or replace the one that runs. Raises StorageFailed: as before."""
        with self._locked():
            state = pb.ScheduleState(schedule=schedule, running=True)
            state.next_run_at.CopyFrom(_stamp(next_moment(plain_schedule(schedule), self._now())))
            self._save(state)
        return state

    def stop(self) -> pb.ScheduleState:
        """End the schedule; what it was is remembered. Raises StorageFailed: it goes on."""
        with self._locked():
            state = self.state()
            state.running = False
            state.ClearField("next_run_at")
            self._save(state)
        return state

    async def tick(self) -> None:
        """Ask for a run if the schedule's moment has come."""
        try:
            if not self._claim():
                return
            adaptive = self.state().schedule.kind == pb.SCHEDULE_KIND_ADAPTIVE
            outcome = await self._ask(not adaptive)
            with self._locked():
                state = self.state()
                state.last_outcome = outcome
                self._save(state)
        except TrainerError as error:
            _log.error("the schedule cannot be kept", problem=str(error))

    def _claim(self) -> bool:
        """Move the schedule on if its moment has come, and say whether that was done here."""
        with self._locked():
            state, now = self.state(), self._now()
            if not state.running:
                return False
            following = next_moment(plain_schedule(state.schedule), now)
            due_at = state.next_run_at.ToDatetime(UTC)
            if now < due_at <= following:
                return False
            came = due_at <= now
            if came:
                state.last_fired_at.CopyFrom(_stamp(now))
            state.next_run_at.CopyFrom(_stamp(following))
            self._save(state)
            return came

    def _locked(self) -> FileLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_name(f".{self._path.name}.lock"), timeout=LOCK_SECONDS)

    def _save(self, state: pb.ScheduleState) -> None:
        replace_file(self._path, to_json(state).encode())


def plain_schedule(schedule: pb.Schedule) -> Schedule:
    """Translate a schedule that was checked when it was started."""
    return Schedule(
        _KINDS[schedule.kind],
        schedule.day_of_week - 1 if schedule.day_of_week else Schedule.day_of_week,
        schedule.day_of_month or Schedule.day_of_month,
        schedule.hour,
        schedule.minute,
        schedule.check_minutes or Schedule.check_minutes,
    )


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
