"""`moodfood schedule`: the trainer's built-in schedule."""

from typing import Annotated

import typer
from moodfood.trainer.v1 import scheduler_pb2

from services.cli.arguments import Json
from services.cli.connection import SCHEDULER, reach
from services.cli.output import enum_word, plain, print_facts, print_json

app = typer.Typer(help="The built-in schedule of training runs.", no_args_is_help=True)
start = typer.Typer(help="Start the schedule, or replace it: weekly, monthly or adaptive.", no_args_is_help=True)
app.add_typer(start, name="start")

Hour = Annotated[int, typer.Option("--hour", min=0, max=23, help="UTC.")]
Minute = Annotated[int, typer.Option("--minute", min=0, max=59)]


@start.command()
@app.command(hidden=True)
def weekly(
    day: Annotated[int, typer.Option("--day", min=1, max=7, help="1 is Monday, 7 is Sunday.")] = 7,
    hour: Hour = 3,
    minute: Minute = 0,
    as_json: Json = False,
) -> None:
    """Ask once a week whether a run is due."""
    _start(
        scheduler_pb2.Schedule(kind=scheduler_pb2.SCHEDULE_KIND_WEEKLY, day_of_week=day, hour=hour, minute=minute),
        as_json,
    )


@start.command()
@app.command(hidden=True)
def monthly(
    day: Annotated[int, typer.Option("--day", min=1, max=31, help="The last day in shorter months.")] = 1,
    hour: Hour = 3,
    minute: Minute = 0,
    as_json: Json = False,
) -> None:
    """Ask once a month whether a run is due."""
    _start(
        scheduler_pb2.Schedule(kind=scheduler_pb2.SCHEDULE_KIND_MONTHLY, day_of_month=day, hour=hour, minute=minute),
        as_json,
    )


@start.command()
@app.command(hidden=True)
def adaptive(
    check_minutes: Annotated[int, typer.Option("--check-minutes", min=1, max=1440)] = 15, as_json: Json = False
) -> None:
    """Run as soon as enough is new, or enough days have passed, or queries have drifted."""
    _start(scheduler_pb2.Schedule(kind=scheduler_pb2.SCHEDULE_KIND_ADAPTIVE, check_minutes=check_minutes), as_json)


@app.command()
def stop(as_json: Json = False) -> None:
    """End the schedule."""
    with reach(SCHEDULER) as scheduler:
        answer = scheduler.StopSchedule(scheduler_pb2.StopScheduleRequest())
    _show(answer.state, as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Show the schedule."""
    with reach(SCHEDULER) as scheduler:
        answer = scheduler.GetSchedule(scheduler_pb2.GetScheduleRequest())
    _show(answer.state, as_json)


def _start(schedule: scheduler_pb2.Schedule, as_json: bool) -> None:
    with reach(SCHEDULER) as scheduler:
        answer = scheduler.StartSchedule(scheduler_pb2.StartScheduleRequest(schedule=schedule))
    _show(answer.state, as_json)


def _show(state: scheduler_pb2.ScheduleState, as_json: bool) -> None:
    if as_json:
        print_json(plain(state))
        return
    fires = state.next_run_at.ToDatetime().strftime("%Y-%m-%d %H:%M UTC") if state.running else "never"
    print_facts(
        {
            "schedule": enum_word(scheduler_pb2.ScheduleKind, state.schedule.kind) if state.running else "stopped",
            "fires next": fires,
            "last outcome": state.last_outcome or "-",
        }
    )
