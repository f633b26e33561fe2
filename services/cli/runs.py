"""`moodfood runs` and `moodfood retrain`: start training runs, see what they did and why, cancel one."""

from collections.abc import Callable
from typing import Annotated

import typer
from google.longrunning import operations_pb2
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from services.cli.arguments import Json
from services.cli.connection import OPERATIONS, TRAINER, reach
from services.cli.output import (
    REFUSED,
    enum_word,
    fail,
    plain,
    print_facts,
    print_json,
    print_rules,
    print_table,
    progress_bar,
)

MOST_LOSSES = 10
TIME = "%Y-%m-%d %H:%M:%S"

app = typer.Typer(help="Training runs: start, list, show and cancel them.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="The run; the newest if not given.")]


@app.command(name="start")
def retrain(
    force: Annotated[bool, typer.Option("--force", help="Also when a scheduled run is not due.")] = False,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Promote nothing.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="Run only when retraining is due.")] = False,
    as_json: Json = False,
) -> None:
    """Retrain in the running trainer and follow the run. Exits with 2 when the gate refuses the challenger."""
    trigger = trainer_pb2.TRIGGER_CRON_TRIGGERED if cron else trainer_pb2.TRIGGER_MANUAL
    request = trainer_pb2.RetrainRequest(trigger=trigger, force=force, validate_only=validate_only)
    with reach(TRAINER) as trainer:
        run_id = start_run(trainer, request)
    with reach(TRAINER, seconds=None) as trainer, progress_bar() as progress:
        task = progress.add_task("start", total=100)

        def show_progress(run: trainer_pb2.TrainingRun) -> None:
            progress.update(task, description=_stage(run), completed=run.percent)

        run = follow(trainer, run_id, show_progress)
    del run.evaluation.labels[:]
    reasons = "; ".join(run.reasons)
    if as_json:
        print_json(plain(run))
    else:
        print_facts({"run": run.run_id, "state": _state(run), "version": run.version, "reasons": reasons})
    if run.state == trainer_pb2.RUN_STATE_REJECTED:
        raise typer.Exit(REFUSED)
    if run.state not in {trainer_pb2.RUN_STATE_SUCCEEDED, trainer_pb2.RUN_STATE_SKIPPED}:
        fail(f"the run {_state(run)}: {reasons}")


@app.command(name="list")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    with reach(TRAINER) as trainer:
        answer = trainer.ListTrainingRuns(trainer_pb2.ListTrainingRunsRequest(page_size=limit))
    if as_json:
        print_json(plain(answer))
        return
    print_table(
        ("run", "trigger", "state", "stage", "version", "why"),
        [
            (run.run_id, _trigger(run), _state(run), _stage(run), run.version or "-", "; ".join(run.reasons))
            for run in answer.runs
        ],
    )


@app.command()
def show(run_id: RunId = "", as_json: Json = False) -> None:
    """Show a run: its data, every rule of the gate with its numbers, what it lost where, and each replica."""
    with reach(TRAINER) as trainer:
        run = _run(trainer, run_id)
    if as_json:
        print_json(plain(run))
        return
    print_facts(_facts(run))
    if run.decision.rules:
        print_rules([(rule.rule, rule.passed, rule.detail) for rule in run.decision.rules])
    losses = largest_losses(run.decision)
    if losses:
        print_table(
            ("largest losses", "examples", "champion", "challenger", "more than chance"),
            [
                (f"{part.kind} {part.name}", part.examples, part.champion, part.challenger,
                 "yes" if part.surely_lost else "no")
                for part in losses
            ],
        )  # fmt: skip
    if run.replicas:
        print_table(
            ("replica", "version", "what happened"),
            [(replica.target, replica.version or "-", replica.error or "swapped") for replica in run.replicas],
        )


@app.command()
def cancel(run_id: RunId = "", as_json: Json = False) -> None:
    """End a run that is going on; the champion stays."""
    with reach(TRAINER) as trainer, reach(OPERATIONS) as operations:
        run_id = _run(trainer, run_id).run_id
        operations.CancelOperation(operations_pb2.CancelOperationRequest(name=f"operations/{run_id}"))
        run = _run(trainer, run_id)
    if as_json:
        print_json(plain(run))
        return
    print_facts({"run": run.run_id, "state": _state(run)})


def start_run(trainer: trainer_pb2_grpc.TrainerServiceStub, request: trainer_pb2.RetrainRequest) -> str:
    """Start a run and return its id."""
    run = trainer_pb2.TrainingRun()
    trainer.Retrain(request).metadata.Unpack(run)
    return run.run_id


def follow(
    trainer: trainer_pb2_grpc.TrainerServiceStub, run_id: str, show_change: Callable[[trainer_pb2.TrainingRun], None]
) -> trainer_pb2.TrainingRun:
    """Show every change of a run and return it as it ended."""
    run = trainer_pb2.TrainingRun()
    for change in trainer.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest(run_id=run_id)):
        run = change.run
        show_change(run)
    return run


def largest_losses(decision: manifest_pb2.PromotionDecision) -> list[manifest_pb2.PartComparison]:
    """Return the labels and slices on which the challenger is worse than the champion, worst first."""
    lost = [part for part in decision.parts if part.challenger < part.champion]
    return sorted(lost, key=lambda part: part.challenger - part.champion)[:MOST_LOSSES]


def _facts(run: trainer_pb2.TrainingRun) -> dict[str, object]:
    facts: dict[str, object] = {
        "run": run.run_id,
        "trigger": _trigger(run),
        "state": _state(run),
        "stage": f"{_stage(run)}, {run.percent} %",
        "began (UTC)": run.started_at.ToDatetime().strftime(TIME),
    }
    if run.HasField("finished_at"):
        facts["took"] = f"{run.finished_at.ToMilliseconds() / 1e3 - run.started_at.ToMilliseconds() / 1e3:.1f} s"
    if run.version:
        facts["version"] = f"{run.version}, compared with champion {run.champion_version or 'none'}"
    if run.HasField("snapshot"):
        snapshot = run.snapshot
        facts["snapshot"] = (
            f"{snapshot.id}: {snapshot.train_examples} examples learned, {snapshot.held_out_examples} held out"
        )
        if snapshot.dropped:
            facts["dropped"] = ", ".join(f"{count} {reason}" for reason, count in sorted(snapshot.dropped.items()))
    if run.reasons:
        facts["why"] = "; ".join(run.reasons)
    return facts


def _trigger(run: trainer_pb2.TrainingRun) -> str:
    return enum_word(trainer_pb2.Trigger, run.trigger)


def _state(run: trainer_pb2.TrainingRun) -> str:
    return enum_word(trainer_pb2.RunState, run.state)


def _stage(run: trainer_pb2.TrainingRun) -> str:
    return enum_word(trainer_pb2.RunStage, run.stage)


def _run(trainer: trainer_pb2_grpc.TrainerServiceStub, run_id: str) -> trainer_pb2.TrainingRun:
    """Return a run, the newest if none is named."""
    if run_id:
        return trainer.GetTrainingRun(trainer_pb2.GetTrainingRunRequest(run_id=run_id)).run
    watched = trainer.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest())
    run = next(iter(watched)).run
    watched.cancel()
    return run
