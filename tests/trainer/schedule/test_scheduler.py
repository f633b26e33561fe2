import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from moodfood.trainer.v1 import scheduler_pb2 as pb

from services.trainer.api.checks import check_schedule
from services.trainer.errors import InvalidRequest, RetrainInProgress
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
    """A store with a clock, on which any number of trainers keep the schedule."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "schedule.json"
        self.clock = at("2026-11-23 12:00")
        self.asked: list[bool] = []
        self.busy = False

    def trainer(self) -> Scheduler:
        async def ask(tell: bool) -> str:
            if self.busy:
                raise RetrainInProgress("operations/other")
            self.asked.append(tell)
            return "started run 1"

        return Scheduler(self.path, ask, lambda: self.clock)


async def test_run_is_asked_for_when_the_moment_has_come_and_not_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
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


async def test_moments_missed_while_nobody_was_up_are_caught_up_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer().start(WEEKLY)
    bench.clock += timedelta(days=40)
    restarted = bench.trainer()
    await restarted.tick()
    await restarted.tick()
    assert bench.asked == [True]
    assert restarted.state().next_run_at.ToDatetime(UTC) == at("2027-01-03 03:00")


async def test_two_trainers_on_a_store_ask_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    trainers = [bench.trainer() for _ in range(2)]
    trainers[0].start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:02")
    await asyncio.gather(*(trainer.tick() for trainer in trainers))
    assert bench.asked == [True]


async def test_stopped_schedule_asks_for_nothing_on_any_trainer(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer().start(WEEKLY)
    bench.trainer().stop()
    bench.clock += timedelta(days=40)
    await bench.trainer().tick()
    assert (bench.asked, bench.trainer().state().running) == ([], False)
    assert bench.trainer().state().schedule == WEEKLY


async def test_clock_that_was_set_back_does_not_silence_the_schedule(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    subject = bench.trainer()
    bench.clock = at("2030-01-01 00:00")
    subject.start(WEEKLY)
    bench.clock = at("2026-11-23 12:00")
    await subject.tick()
    assert bench.asked == []
    bench.clock = at("2026-11-29 03:00:01")
    await subject.tick()
    assert bench.asked == [True]


async def test_moment_that_meets_a_run_is_asked_again_soon(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.busy = True
    subject = bench.trainer()
    subject.start(WEEKLY)
    bench.clock = at("2026-11-29 03:00:01")
    await subject.tick()
    state = subject.state()
    assert "operations/other" in state.last_outcome
    assert at("2026-11-29 03:05:01") == state.next_run_at.ToDatetime(UTC)
    bench.busy = False
    bench.clock = at("2026-11-29 03:05:02")
    await subject.tick()
    assert ("started run 1", at("2026-12-06 03:00")) == (
        subject.state().last_outcome,
        subject.state().next_run_at.ToDatetime(UTC),
    )


async def test_adaptive_schedule_asks_often_and_says_nothing_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    subject = bench.trainer()
    subject.start(ADAPTIVE)
    for _ in range(3):
        bench.clock += timedelta(minutes=16)
        await subject.tick()
    assert bench.asked == [False, False, False]


async def test_damaged_file_is_a_stopped_schedule(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.path.write_text('{"running": tr')
    await bench.trainer().tick()
    assert not bench.trainer().state().running
    assert bench.trainer().start(WEEKLY).running


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
