import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from moodfood.trainer.v1 import scheduler_pb2 as pb
from sqlalchemy import text

from services.trainer.api.checks import check_schedule
from services.trainer.database.database import Database
from services.trainer.database.leases import SCHEDULE, Leases
from services.trainer.errors import InvalidRequest, RetrainInProgress, StorageFailed
from services.trainer.schedule.calendar import Kind, Schedule, next_moment
from services.trainer.schedule.scheduler import Scheduler

pytestmark = pytest.mark.anyio

WEEKLY = pb.Schedule(kind=pb.SCHEDULE_KIND_WEEKLY, day_of_week=7, hour=3)
ADAPTIVE = pb.Schedule(kind=pb.SCHEDULE_KIND_ADAPTIVE, check_minutes=15)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        (Schedule(Kind.WEEKLY), "2026-11-23 12:00", "2026-11-29 03:00"),
        (Schedule(Kind.WEEKLY), "2026-11-29 02:59:59", "2026-11-29 03:00"),
        (Schedule(Kind.WEEKLY), "2026-11-29 03:00", "2026-12-06 03:00"),
        (Schedule(Kind.WEEKLY, day_of_week=0, hour=23, minute=59), "2026-11-23 00:00", "2026-11-23 23:59"),
        (Schedule(Kind.MONTHLY), "2026-11-23 12:00", "2026-12-01 03:00"),
        (Schedule(Kind.MONTHLY, day_of_month=31), "2026-11-23 12:00", "2026-11-30 03:00"),
        (Schedule(Kind.MONTHLY, day_of_month=31), "2026-11-30 03:00", "2026-12-31 03:00"),
        (Schedule(Kind.MONTHLY, day_of_month=30), "2027-02-01 00:00", "2027-02-28 03:00"),
        (Schedule(Kind.MONTHLY, day_of_month=30), "2027-01-30 03:00", "2027-02-28 03:00"),
        (Schedule(Kind.MONTHLY, day_of_month=15), "2026-12-23 12:00", "2027-01-15 03:00"),
        (Schedule(Kind.MONTHLY, day_of_month=15), "2026-11-23 12:00", "2026-12-15 03:00"),
        (Schedule(Kind.ADAPTIVE, check_minutes=20), "2026-11-23 12:00", "2026-11-23 12:20"),
    ],
)
def test_moment_comes_next(schedule: Schedule, after: str, expected: str) -> None:
    assert at(expected) == next_moment(schedule, at(after))


class Bench:
    """A database with a clock, on which any number of trainers keep the schedule."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = at("2026-11-23 12:00")
        self.asked: list[bool] = []
        self.problem: BaseException | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    async def ask(self, tell: bool) -> str:
        self.meanwhile()
        if self.problem is not None:
            raise self.problem
        self.asked.append(tell)
        return "started run 1"

    def trainer(self) -> Scheduler:
        return Scheduler(self.database, Leases(self.database), self.ask, lambda: self.clock)


@pytest.fixture
def bench(sqlite_url: str) -> Iterator[Bench]:
    with closing(Database(sqlite_url)) as database:
        yield Bench(database)


async def test_run_is_asked_for_when_the_moment_has_come_and_not_before(bench: Bench) -> None:
    subject = bench.trainer()
    assert subject.start(WEEKLY).next_run_at.ToDatetime(UTC) == at("2026-11-29 03:00")
    await subject.tick()
    assert bench.asked == []
    bench.clock = at("2026-11-29 03:00:01")
    await subject.tick()
    await subject.tick()
    assert bench.asked == [True]
    state = subject.state()
    assert (state.last_outcome, state.next_run_at.ToDatetime(UTC)) == ("started run 1", at("2026-12-06 03:00"))


async def test_moments_missed_while_nobody_was_up_are_caught_up_once(bench: Bench) -> None:
    bench.trainer().start(WEEKLY)
    bench.clock += timedelta(days=40)
    restarted = bench.trainer()
    await restarted.tick()
    await restarted.tick()
    assert bench.asked == [True]
    assert restarted.state().next_run_at.ToDatetime(UTC) == at("2027-01-03 03:00")


async def test_of_two_trainers_one_asks(database: Database) -> None:
    bench = Bench(database)
    trainers = [bench.trainer() for _ in range(2)]
    trainers[0].start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:02")
    await asyncio.gather(*(trainer.tick() for trainer in trainers))
    assert bench.asked == [True]
    assert trainers[1].state().next_run_at.ToDatetime(UTC) == at("2026-12-06 03:00")


async def test_schedule_that_is_stopped_while_a_trainer_takes_the_lease_asks_for_nothing(bench: Bench) -> None:
    first = bench.trainer()

    class Slow(Scheduler):
        def state(self) -> pb.ScheduleState:
            seen = super().state()
            first.stop()
            return seen

    first.start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:02")
    await Slow(bench.database, Leases(bench.database), bench.ask, lambda: bench.clock).tick()
    assert bench.asked == []


async def test_trainer_that_dies_between_taking_the_moment_and_asking_loses_nothing(bench: Bench) -> None:
    bench.trainer().start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:02")
    bench.problem = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await bench.trainer().tick()
    bench.problem = None
    await bench.trainer().tick()
    assert bench.asked == [True]


async def test_moment_that_another_trainer_holds_is_left_to_it_until_its_lease_lapses(bench: Bench) -> None:
    bench.trainer().start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:02")
    dead = Leases(bench.database).take(SCHEDULE)
    assert dead is not None
    await bench.trainer().tick()
    assert bench.asked == []
    Leases(bench.database).give_back(dead)
    await bench.trainer().tick()
    assert bench.asked == [True]


async def test_schedule_that_is_changed_while_a_trainer_asks_stays_as_it_was_changed(bench: Bench) -> None:
    subject = bench.trainer()
    subject.start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:01")
    bench.meanwhile = subject.stop
    await subject.tick()
    state = subject.state()
    assert (state.running, state.HasField("next_run_at"), state.last_outcome) == (False, False, "started run 1")


def test_of_changes_at_once_none_is_lost(database: Database) -> None:
    bench = Bench(database)
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: bench.trainer().start(WEEKLY), range(8)))
    assert [state.schedule for state in states] == [WEEKLY] * 8
    with database.read() as connection:
        assert connection.scalar(text("SELECT revision FROM schedules")) == 8


async def test_stopped_schedule_asks_for_nothing_on_any_trainer(bench: Bench) -> None:
    bench.trainer().start(WEEKLY)
    bench.trainer().stop()
    bench.clock += timedelta(days=40)
    await bench.trainer().tick()
    assert (bench.asked, bench.trainer().state().running) == ([], False)
    assert bench.trainer().state().schedule == WEEKLY


async def test_clock_that_was_set_back_does_not_silence_the_schedule(bench: Bench) -> None:
    subject = bench.trainer()
    bench.clock = at("2030-01-01 00:00")
    subject.start(WEEKLY)
    bench.clock = at("2026-11-23 12:00")
    await subject.tick()
    assert bench.asked == []
    bench.clock = at("2026-11-29 03:00:01")
    await subject.tick()
    assert bench.asked == [True]


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (RetrainInProgress("operations/other"), "operations/other"),
        (StorageFailed("the disk of the database is full"), "is full"),
        (ZeroDivisionError(), "see the log of the trainer"),
    ],
)
async def test_moment_at_which_no_run_can_be_asked_for_comes_again_soon(
    bench: Bench, problem: Exception, outcome: str
) -> None:
    bench.problem = problem
    subject = bench.trainer()
    subject.start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:01")
    await subject.tick()
    state = subject.state()
    assert outcome in state.last_outcome
    assert at("2026-11-29 03:05:01") == state.next_run_at.ToDatetime(UTC)
    bench.problem = None
    bench.clock = at("2026-11-29 03:05:02")
    await subject.tick()
    assert ("started run 1", at("2026-12-06 03:00")) == (
        subject.state().last_outcome,
        subject.state().next_run_at.ToDatetime(UTC),
    )


async def test_adaptive_schedule_asks_often_and_says_nothing_of_it(bench: Bench) -> None:
    subject = bench.trainer()
    subject.start(ADAPTIVE)
    for _ in range(3):
        bench.clock += timedelta(minutes=16)
        await subject.tick()
    assert bench.asked == [False, False, False]


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (pb.Schedule(), "schedule.kind"),
        (pb.Schedule(kind=pb.SCHEDULE_KIND_WEEKLY, day_of_week=8), "schedule.day_of_week"),
        (pb.Schedule(kind=pb.SCHEDULE_KIND_MONTHLY, day_of_month=32), "schedule.day_of_month"),
        (pb.Schedule(kind=pb.SCHEDULE_KIND_WEEKLY, hour=24), "schedule.hour"),
        (pb.Schedule(kind=pb.SCHEDULE_KIND_WEEKLY, minute=-1), "schedule.minute"),
        (pb.Schedule(kind=pb.SCHEDULE_KIND_ADAPTIVE, check_minutes=1441), "schedule.check_minutes"),
    ],
)
def test_schedule_that_means_nothing_names_its_field(schedule: pb.Schedule, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_schedule(schedule)
    assert field == refusal.value.field
