"""The built-in schedule: a file that says when to ask for a training run.

The schedule survives restarts and is one for all trainers on the same folders. Each trainer reads the file every few
seconds. The first one that finds the moment passed moves it on, under a lock, and then asks for the run. So several
trainers ask once, and moments that passed while no trainer was up are caught up by one run. A clock that was set back
is noticed: the next moment then lies further ahead than the schedule allows.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.trainer.v1 import scheduler_pb2 as pb

from services.trainer.errors import RetrainInProgress, TrainerError
from services.trainer.schedule.calendar import Kind, Schedule, next_moment
from services.trainer.storage import locked, read_message, replace_file, to_json

TICK_SECONDS = 5.0
# A moment that meets a run that is going on is not lost: it is asked again after this time.
RETRY = timedelta(minutes=5)

_KINDS = {
    pb.SCHEDULE_KIND_WEEKLY: Kind.WEEKLY,
    pb.SCHEDULE_KIND_MONTHLY: Kind.MONTHLY,
    pb.SCHEDULE_KIND_ADAPTIVE: Kind.ADAPTIVE,
}

_log = structlog.get_logger()

# Begins a run if one is due, and says in a few words what came of it; with False, no record of one that is not due.
Ask = Callable[[bool], Awaitable[str]]


class Scheduler:
    """Owner of the schedule's file. Lives on the event loop."""

    def __init__(self, path: Path, ask: Ask, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._ask = ask
        self._now = now
        self._lock_path = path.with_name(f".{path.name}.lock")

    async def follow(self) -> None:
        """Look at the schedule for as long as the trainer runs."""
        while True:
            try:
                await self.tick()
            except Exception as error:
                _log.error("cannot follow the schedule", exc_info=error)
            await asyncio.sleep(TICK_SECONDS)

    def state(self) -> pb.ScheduleState:
        """Return the schedule, whether it runs, and when it fires next; a stopped one if the file cannot be read."""
        state = read_message(self._path, pb.ScheduleState())
        if state is None and self._path.exists():
            _log.error("the schedule's file is damaged; start the schedule anew", path=self._path.name)
        return state or pb.ScheduleState()

    def start(self, schedule: pb.Schedule) -> pb.ScheduleState:
        """Begin a schedule, or replace the one that runs. Raises StorageFailed; the previous schedule stays active."""
        with locked(self._lock_path):
            state = pb.ScheduleState(schedule=schedule, running=True)
            state.next_run_at.CopyFrom(_stamp(next_moment(read_schedule(schedule), self._now())))
            self._save(state)
        return state

    def stop(self) -> pb.ScheduleState:
        """End the schedule; what it was is remembered. Raises StorageFailed: it goes on."""
        with locked(self._lock_path):
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
            try:
                outcome, again = await self._ask(not adaptive), None
            except RetrainInProgress as error:
                outcome, again = str(error), self._now() + RETRY
            self._note(outcome, again)
        except TrainerError as error:
            _log.error("the schedule cannot be kept", problem=str(error))

    def _claim(self) -> bool:
        """Move the schedule on if its moment has come, and say whether that was done here."""
        with locked(self._lock_path):
            state, now = self.state(), self._now()
            if not state.running:
                return False
            following = next_moment(read_schedule(state.schedule), now)
            due_at = state.next_run_at.ToDatetime(UTC)
            if now < due_at <= following:
                return False
            came = due_at <= now
            if came:
                state.last_fired_at.CopyFrom(_stamp(now))
            state.next_run_at.CopyFrom(_stamp(following))
            self._save(state)
            return came

    def _note(self, outcome: str, again: datetime | None) -> None:
        """Keep what came of a moment, and ask again at another one if that comes before the schedule's next."""
        with locked(self._lock_path):
            state = self.state()
            state.last_outcome = outcome
            if again is not None and state.running and again < state.next_run_at.ToDatetime(UTC):
                state.next_run_at.CopyFrom(_stamp(again))
            self._save(state)

    def _save(self, state: pb.ScheduleState) -> None:
        replace_file(self._path, to_json(state).encode())


def read_schedule(schedule: pb.Schedule) -> Schedule:
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
