"""`moodfood runs`: what training runs did, why the gate decided as it did, and how to end one."""

from typing import Annotated

import grpc
import typer
from google.longrunning import operations_grpc_pb2, operations_pb2
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from services.cli.output import enum_word, one_line_errors, plain, print_facts, print_json, print_table
from services.cli.settings import Settings

CALL_SECONDS = 10
CANCEL_SECONDS = 10
MOST_PARTS = 10

app = typer.Typer(help="Training runs: list them, read one, cancel one.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RunId = Annotated[str, typer.Argument(help="The run; the newest if not given.")]


@app.command(name="list")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        answer = _stub(channel).ListTrainingRuns(
            trainer_pb2.ListTrainingRunsRequest(page_size=limit), timeout=CALL_SECONDS
        )
    if as_json:
        print_json(plain(answer))
        return
    print_table(
        ("run", "trigger", "state", "stage", "version", "why"),
        [
            (
                run.run_id,
                enum_word(trainer_pb2.Trigger, run.trigger),
                enum_word(trainer_pb2.RunState, run.state),
                enum_word(trainer_pb2.RunStage, run.stage),
                run.version or "-",
                "; ".join(run.reasons),
            )
            for run in answer.runs
        ],
    )


@app.command()
def show(run_id: RunId = "", as_json: Json = False) -> None:
    """Show a run: its data, every rule of the gate with its numbers, what it lost where, and each replica."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        run = _run(channel, run_id)
    if as_json:
        print_json(plain(run))
        return
    print_facts(_facts(run))
    if run.decision.rules:
        print_table(
            ("rule", "passed", "numbers"),
            [(rule.rule, "yes" if rule.passed else "NO", rule.detail) for rule in run.decision.rules],
        )
    losses = largest_losses(run.decision)
    if losses:
        print_table(
            ("largest losses", "examples", "champion", "challenger", "more than chance"),
            [
                (f"{each.kind} {each.name}", each.examples, each.champion, each.challenger,
                 "yes" if each.surely_lost else "no")
                for each in losses
            ],
        )  # fmt: skip
    if run.replicas:
        print_table(
            ("replica", "version", "what happened"),
            [(each.target, each.version or "-", each.error or "swapped") for each in run.replicas],
        )


@app.command()
def cancel(run_id: RunId = "", as_json: Json = False) -> None:
    """End a run that is going on; the champion stays."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        run_id = _run(channel, run_id).run_id
        operations_grpc_pb2.OperationsStub(channel).CancelOperation(
            operations_pb2.CancelOperationRequest(name=f"operations/{run_id}"), timeout=CANCEL_SECONDS
        )
        run = _run(channel, run_id)
    if as_json:
        print_json(plain(run))
        return
    print_facts({"run": run.run_id, "state": enum_word(trainer_pb2.RunState, run.state)})


def largest_losses(decision: manifest_pb2.PromotionDecision) -> list[manifest_pb2.PartComparison]:
    """Return the labels and slices on which the challenger is worse than the champion, worst first."""
    lost = [part for part in decision.parts if part.challenger < part.champion]
    return sorted(lost, key=lambda part: part.challenger - part.champion)[:MOST_PARTS]


def _facts(run: trainer_pb2.TrainingRun) -> dict[str, object]:
    facts: dict[str, object] = {
        "run": run.run_id,
        "trigger": enum_word(trainer_pb2.Trigger, run.trigger),
        "state": enum_word(trainer_pb2.RunState, run.state),
        "stage": f"{enum_word(trainer_pb2.RunStage, run.stage)}, {run.percent} %",
        "began (UTC)": run.started_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
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


def _stub(channel: grpc.Channel) -> trainer_pb2_grpc.TrainerServiceStub:
    return trainer_pb2_grpc.TrainerServiceStub(channel)


def _run(channel: grpc.Channel, run_id: str) -> trainer_pb2.TrainingRun:
    """Return a run, the newest if none is named."""
    stub = _stub(channel)
    if run_id:
        return stub.GetTrainingRun(trainer_pb2.GetTrainingRunRequest(run_id=run_id), timeout=CALL_SECONDS).run
    watched = stub.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest(), timeout=CALL_SECONDS)
    run = next(iter(watched)).run
    watched.cancel()
    return run
