"""The built-in schedule: a row that says when to check whether a training run is due.

The schedule survives restarts, and all trainers on a database share it. Each trainer reads the row every few seconds.
The first trainer that finds the time reached takes the lease of the schedule, asks for a run, writes the outcome and
the next time, and gives the lease back. So several trainers ask only once, and one run makes up for all times that
passed while no trainer was running. A trainer that dies before it has written loses nothing: the time is still reached,
and another trainer asks when the lease has lapsed. If the clock was set back, the next time is further ahead than the
schedule allows, and it is computed again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.trainer.v1 import scheduler_pb2 as pb
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from services.trainer.database.database import Database
from services.trainer.database.leases import SCHEDULE, Leases
from services.trainer.database.tables import schedules
from services.trainer.errors import TrainerError
from services.trainer.runs.record import UNEXPECTED
from services.trainer.schedule.calendar import Kind, Schedule, next_moment
from services.trainer.storage import to_json

TICK_SECONDS = 5.0
# If a run cannot be asked for when the schedule fires, such as when another one is in progress, it fires again after
# this time.
RETRY = timedelta(minutes=5)
# The row of the schedule. There is one.
NAME = "retraining"

_KINDS = {
    pb.SCHEDULE_KIND_WEEKLY: Kind.WEEKLY,
    pb.SCHEDULE_KIND_MONTHLY: Kind.MONTHLY,
    pb.SCHEDULE_KIND_ADAPTIVE: Kind.ADAPTIVE,
}

_log = structlog.get_logger()

# Starts a run if one is due and returns the outcome in words. The argument says whether to record a skipped run.
Ask = Callable[[bool], Awaitable[str]]


class Scheduler:
    """Starts, stops and follows the schedule. `start`, `stop` and `state` block: call them off the event loop."""

    def __init__(
        self, database: Database, leases: Leases, ask: Ask, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._leases = leases
        self._ask = ask
        self._now = now

    async def follow(self) -> None:
        """Call `tick` every TICK_SECONDS until this task is cancelled."""
        while True:
            try:
                await self.tick()
            except TrainerError as error:
                _log.error("the schedule cannot be followed", problem=str(error))
            except Exception as error:
                _log.error("cannot follow the schedule", exc_info=error)
            await asyncio.sleep(TICK_SECONDS)

    def state(self) -> pb.ScheduleState:
        """Return the state of the schedule; a stopped one when none was ever started. Raises StorageFailed."""
        return self._read()[0]

    def start(self, schedule: pb.Schedule) -> pb.ScheduleState:
        """Start a schedule, or replace the running one. Raises StorageFailed; the previous schedule stays active."""

        def begin(state: pb.ScheduleState) -> None:
            state.Clear()
            state.schedule.CopyFrom(schedule)
            state.running = True
            state.next_run_at.CopyFrom(_stamp(next_moment(read_schedule(schedule), self._now())))

        return self._change(begin)

    def stop(self) -> pb.ScheduleState:
        """Stop the schedule, and keep what it was. Raises StorageFailed; then the schedule is still running."""

        def end(state: pb.ScheduleState) -> None:
            state.running = False
            state.ClearField("next_run_at")

        return self._change(end)

    async def tick(self) -> None:
        """Ask for a run if the time of the schedule is reached. Raises StorageFailed; then the next call asks again."""
        if self._is_quiet(await asyncio.to_thread(self.state)):
            return
        async with self._leases.hold(SCHEDULE) as lease:
            if lease is None:
                return
            # Another trainer may have asked since.
            state, revision = await asyncio.to_thread(self._read)
            if not self._is_quiet(state):
                await self._fire(state, revision)

    def _is_quiet(self, state: pb.ScheduleState) -> bool:
        """Say whether there is nothing to do now: the schedule is stopped, or its next time is still ahead."""
        if not state.running:
            return True
        now = self._now()
        return now < state.next_run_at.ToDatetime(UTC) <= next_moment(read_schedule(state.schedule), now)

    async def _fire(self, state: pb.ScheduleState, revision: int) -> None:
        """Ask for a run if the time has come, and write what came of it and the next time."""
        fired_at = self._now()
        following = next_moment(read_schedule(state.schedule), fired_at)
        if state.next_run_at.ToDatetime(UTC) > fired_at:
            # The clock was set back.
            state.next_run_at.CopyFrom(_stamp(following))
            await asyncio.to_thread(self._replace, state, revision)
            return
        outcome, again = await self._ask_for_run(state)

        def note(newest: pb.ScheduleState, is_unchanged: bool) -> None:  # noqa: FBT001
            newest.last_outcome = outcome
            newest.last_fired_at.CopyFrom(_stamp(fired_at))
            if is_unchanged:
                newest.next_run_at.CopyFrom(_stamp(min(following, self._now() + again) if again else following))

        note(state, True)
        if not await asyncio.to_thread(self._replace, state, revision):
            # Somebody has started or stopped the schedule since: its next time counts.
            await asyncio.to_thread(self._change, lambda newest: note(newest, False))

    async def _ask_for_run(self, state: pb.ScheduleState) -> tuple[str, timedelta | None]:
        """Return the outcome in words, and after which time to ask again if the question failed."""
        is_adaptive = state.schedule.kind == pb.SCHEDULE_KIND_ADAPTIVE
        try:
            return await self._ask(not is_adaptive), None
        except TrainerError as error:
            return str(error), RETRY
        except Exception as error:
            _log.error("the schedule could not ask for a run", exc_info=error)
            return UNEXPECTED, RETRY

    def _change(self, change: Callable[[pb.ScheduleState], None]) -> pb.ScheduleState:
        """Change the newest state, whoever wrote it, and return the result."""
        while True:
            state, revision = self._read()
            change(state)
            if self._replace(state, revision):
                return state

    def _read(self) -> tuple[pb.ScheduleState, int]:
        """Return the state and its revision, which is 0 when there is no row."""
        with self._database.read() as connection:
            row = connection.execute(
                select(schedules.c.record, schedules.c.revision).where(schedules.c.name == NAME)
            ).one_or_none()
        if row is None:
            return pb.ScheduleState(), 0
        return json_format.Parse(row.record, pb.ScheduleState(), ignore_unknown_fields=True), row.revision

    def _replace(self, state: pb.ScheduleState, revision: int) -> bool:
        """Store a state in the place of one revision. Returns False when that is not the newest one any more."""
        values = {"record": to_json(state, indent=None), "revision": revision + 1}
        try:
            with self._database.write() as connection:
                if revision == 0:
                    connection.execute(schedules.insert().values(name=NAME, **values))
                    return True
                mine = (schedules.c.name == NAME) & (schedules.c.revision == revision)
                return connection.execute(update(schedules).where(mine).values(values)).rowcount == 1
        except IntegrityError:
            return False


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
