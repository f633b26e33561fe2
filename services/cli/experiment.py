"""`moodfood experiment`: a challenger on real traffic."""

import getpass
from typing import Annotated

import typer
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import experiments_pb2

from services.cli.arguments import Json, Reason
from services.cli.connection import EXPERIMENTS, PROMOTION_SECONDS, reach
from services.cli.output import enum_word, plain, print_facts, print_json, print_rules

app = typer.Typer(help="Try a version on real traffic, as a shadow or as a canary.", no_args_is_help=True)
start = typer.Typer(help="Start an experiment: shadow or canary.", no_args_is_help=True)
app.add_typer(start, name="start")

Version = Annotated[int, typer.Argument(min=1, help="The challenger.")]
Share = Annotated[float, typer.Option("--share", min=0.0, max=1.0, help="Share of the callers, 0 to 1.")]


@start.command()
@app.command(hidden=True)
def shadow(version: Version, share: Share = 1.0, as_json: Json = False) -> None:
    """Have a version answer too, for the log only."""
    _start(manifest_pb2.EXPERIMENT_KIND_SHADOW, version, share, as_json)


@start.command()
@app.command(hidden=True)
def canary(version: Version, share: Share = 0.1, as_json: Json = False) -> None:
    """Have a version answer a share of the callers, always the same ones."""
    _start(manifest_pb2.EXPERIMENT_KIND_CANARY, version, share, as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Show the experiment that goes on, or the last one, and the verdict."""
    with reach(EXPERIMENTS) as experiments:
        answer = experiments.GetExperiment(experiments_pb2.GetExperimentRequest())
    _show(answer.experiment, as_json)


@app.command()
def stop(
    promote: Annotated[
        bool, typer.Option("--promote", help="Promote the challenger if the verdict allows it.")
    ] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """End the experiment."""
    request = experiments_pb2.StopExperimentRequest(promote=promote, by=getpass.getuser(), reason=reason)
    with reach(EXPERIMENTS, PROMOTION_SECONDS) as experiments:
        answer = experiments.StopExperiment(request)
    _show(answer.experiment, as_json)


def _start(kind: "manifest_pb2.ExperimentKind.ValueType", version: int, share: float, as_json: bool) -> None:
    request = experiments_pb2.StartExperimentRequest(kind=kind, version=version, share=share, by=getpass.getuser())
    with reach(EXPERIMENTS, PROMOTION_SECONDS) as experiments:
        answer = experiments.StartExperiment(request)
    _show(answer.experiment, as_json)


def _show(experiment: manifest_pb2.Experiment, as_json: bool) -> None:
    if as_json:
        print_json(plain(experiment))
        return
    result = experiment.result
    state = "goes on" if experiment.running else experiment.reason
    accuracies = f"champion {result.champion_accuracy:.4f}, challenger {result.challenger_accuracy:.4f}"
    kind = enum_word(manifest_pb2.ExperimentKind, experiment.kind)
    print_facts(
        {
            "experiment": f"{experiment.experiment_id or 'none'} {state}",
            "versions": f"{experiment.challenger_version} against champion {experiment.champion_version}",
            "callers": f"{kind}, {experiment.share:.0%}",
            "answered by both": f"{result.queries}, {result.agreement:.1%} alike",
            "judged": f"{result.judged}: {accuracies}",
            "median": f"champion {result.champion_micros:.0f} µs, challenger {result.challenger_micros:.0f} µs",
        }
    )
    if result.decision.rules:
        print_rules([(rule.rule, rule.passed, rule.detail) for rule in result.decision.rules])
