"""The built-in schedule: a file that says when to check whether a training run is due.

The schedule survives restarts, and all trainers with one data folder share it. Each trainer reads the file every few
seconds. The first trainer that finds the time reached writes the next time into the file, under a lock, and then asks
for a run. So several trainers ask only once, and one run makes up for all times that passed while no trainer was
running. If the clock was set back, the next time is further ahead than the schedule allows, and it is computed again.
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
# If another run is in progress when the schedule fires, it fires again after this time.
RETRY = timedelta(minutes=5)

_KINDS = {
    pb.SCHEDULE_KIND_WEEKLY: Kind.WEEKLY,
    pb.SCHEDULE_KIND_MONTHLY: Kind.MONTHLY,
    pb.SCHEDULE_KIND_ADAPTIVE: Kind.ADAPTIVE,
}

_log = structlog.get_logger()

# Starts a run if one is due and returns the outcome in words. The argument says whether to record a skipped run.
Ask = Callable[[bool], Awaitable[str]]


class Scheduler:
    """Starts, stops and follows the schedule. Use it on the event loop."""

    def __init__(self, path: Path, ask: Ask, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._ask = ask
        self._now = now
        self._lock_path = path.with_name(f".{path.name}.lock")

    async def follow(self) -> None:
        """Call `tick` every TICK_SECONDS until this task is cancelled."""
        while True:
            try:
                await self.tick()
            except Exception as error:
                _log.error("cannot follow the schedule", exc_info=error)
            await asyncio.sleep(TICK_SECONDS)

    def state(self) -> pb.ScheduleState:
        """Return the state of the schedule; a stopped one when the file cannot be read."""
        state = read_message(self._path, pb.ScheduleState())
        if state is None and self._path.exists():
            _log.error("the file of the schedule is damaged; start the schedule again", path=self._path.name)
        return state or pb.ScheduleState()

    def start(self, schedule: pb.Schedule) -> pb.ScheduleState:
        """Start a schedule, or replace the running one. Raises StorageFailed; the previous schedule stays active."""
        with locked(self._lock_path):
            state = pb.ScheduleState(schedule=schedule, running=True)
            state.next_run_at.CopyFrom(_stamp(next_moment(read_schedule(schedule), self._now())))
            self._save(state)
        return state

    def stop(self) -> pb.ScheduleState:
        """Stop the schedule, and keep it in the file. Raises StorageFailed; then the schedule is still running."""
        with locked(self._lock_path):
            state = self.state()
            state.running = False
            state.ClearField("next_run_at")
            self._save(state)
        return state

    async def tick(self) -> None:
        """Ask for a run if the time of the schedule is reached."""
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
            _log.error("the schedule cannot be followed", problem=str(error))

    def _claim(self) -> bool:
        """Write the next time if the present one is reached. Returns whether this trainer must ask for a run."""
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
        """Record the outcome. With `again`, fire at that time if it is earlier than the next time of the schedule."""
        with locked(self._lock_path):
            state = self.state()
            state.last_outcome = outcome
            if again is not None and state.running and again < state.next_run_at.ToDatetime(UTC):
                state.next_run_at.CopyFrom(_stamp(again))
            self._save(state)

    def _save(self, state: pb.ScheduleState) -> None:
        replace_file(self._path, to_json(state).encode())


def read_schedule(schedule: pb.Schedule) -> Schedule:
    """Translate a schedule from its message. It was checked when it was started."""
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
