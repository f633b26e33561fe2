"""The commands: arguments in, one call, result out.

Imports that take seconds (scikit-learn) or that one command needs (honcho) stand in the commands that use them.
"""

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer
from moodfood.inference.v1 import inference_pb2
from moodfood.trainer.v1 import trainer_pb2

from services.cli import experiment, labels, operating, runs, schedule
from services.cli.output import (
    REFUSED,
    enum_word,
    fail,
    one_line_errors,
    plain,
    print_explanation,
    print_facts,
    print_json,
    print_table,
    progress_bar,
)
from services.cli.settings import Settings

app = typer.Typer(
    name="moodfood",
    help="Text classifiers that keep learning while they serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(runs.app, name="runs")
app.add_typer(experiment.app, name="experiment")
app.add_typer(labels.app, name="labels")
app.add_typer(schedule.app, name="schedule")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Models = Annotated[
    Path | None, typer.Option("--models", help="The model repository; MOODFOOD_MODELS_DIR if not given.")
]
Model = Annotated[str | None, typer.Option("--model", help="Name of the model; MOODFOOD_MODEL if not given.")]
Examples = Annotated[list[Path], typer.Option("--examples", help='JSON lines of {"text": "...", "labels": ["..."]}.')]
Encoder = Annotated[
    Path | None, typer.Option("--encoder", help="The sentence encoder's folder; MOODFOOD_ENCODER_DIR if not given.")
]
NoEncoder = Annotated[bool, typer.Option("--no-encoder", help="Leave the transformer stage out.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]

MULTIPLE = "--examples"


@app.command()
def up() -> None:
    """Start inference, trainer and gateway here and stop them together."""
    from services.cli.up import start_everything

    raise typer.Exit(start_everything(Settings()))


@app.command()
def train(
    examples: Annotated[
        list[Path] | None, typer.Option("--examples", help='JSON lines of {"text": "...", "labels": ["..."]}.')
    ] = None,
    snapshot: Annotated[
        str, typer.Option("--snapshot", help="Learn from this snapshot of an earlier run again, instead of examples.")
    ] = "",
    taxonomy: Annotated[Path | None, typer.Option("--taxonomy", help="Labels that exist.")] = None,
    held_out: Annotated[Path | None, typer.Option("--held-out", help="Examples for evaluation only.")] = None,
    golden: Annotated[Path | None, typer.Option("--golden", help="Queries that must be answered right.")] = None,
    models: Models = None,
    model: Model = None,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    as_json: Json = False,
) -> None:
    """Train, validate and register a version from files, without servers. Exits with 2 when the gate refuses it."""
    from services.cli import learning

    if bool(examples) == bool(snapshot):
        fail("name either --examples or --snapshot")
    settings = Settings()
    with one_line_errors():
        summary = learning.train(
            examples or [],
            taxonomy,
            held_out,
            golden,
            models or settings.models_dir,
            model or settings.model,
            None if no_encoder else encoder or settings.encoder_path,
            snapshot,
        )
    if as_json:
        print_json(summary)
    else:
        print_facts({name: value for name, value in summary.items() if name != "rules"})
        print_table(
            ("rule", "passed", "numbers"),
            [(rule["name"], "yes" if rule["passed"] else "NO", rule["detail"]) for rule in summary["rules"]],
        )
    if not summary["promoted"]:
        raise typer.Exit(REFUSED)


@app.command()
def evaluate(
    examples: Examples,
    models: Models = None,
    model: Model = None,
    version: Annotated[int, typer.Option("--version", min=0, help="0 is the champion.")] = 0,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    as_json: Json = False,
) -> None:
    """Measure a version on examples: accuracy, calibration, abstention, escalation, microseconds per query.

    Examples with an empty list of labels are out of scope: the right answer to them is none.
    """
    from services.cli import learning

    settings = Settings()
    with one_line_errors():
        summary = learning.evaluate_version(
            models or settings.models_dir,
            model or settings.model,
            examples,
            version,
            None if no_encoder else encoder or settings.encoder_path,
        )
    print_json(summary) if as_json else print_facts(summary)


@app.command()
def classify(
    texts: Annotated[list[str], typer.Argument(help="What somebody says about how they feel.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=100)] = 5,
    explain: Annotated[bool, typer.Option("--explain", help="Show what spoke for each answer.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the running inference service for the intents of one text or several."""
    with one_line_errors(), grpc.insecure_channel(Settings().inference) as channel:
        if explain:
            explained = [operating.explain(channel, text, top_k) for text in texts]
            answer = inference_pb2.BatchClassifyResponse(classifications=explained)
        else:
            answer = operating.classify(channel, texts, top_k)
    if as_json:
        print_json(plain(answer))
        return
    for text, each in zip(texts, answer.classifications, strict=True):
        stage = enum_word(inference_pb2.Stage, each.stage)
        print_table((text, f"{stage}, version {each.model_version}"), [(i.label, i.confidence) for i in each.intents])
        if explain:
            print_explanation(each)


@app.command()
def retrain(
    force: Annotated[bool, typer.Option("--force", help="Also when a scheduled run is not due.")] = False,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Promote nothing.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="Run only when retraining is due.")] = False,
    as_json: Json = False,
) -> None:
    """Retrain in the running trainer and follow the run. Exits with 2 when the gate refuses the challenger."""
    trigger = trainer_pb2.TRIGGER_CRON_TRIGGERED if cron else trainer_pb2.TRIGGER_MANUAL
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel, progress_bar() as progress:
        task = progress.add_task("start", total=100)

        def show(run: trainer_pb2.TrainingRun) -> None:
            stage = enum_word(trainer_pb2.RunStage, run.stage)
            progress.update(task, description=stage, completed=run.percent)

        run = operating.retrain(channel, trigger, force, validate_only, show)
    del run.evaluation.labels[:]
    state = enum_word(trainer_pb2.RunState, run.state)
    if as_json:
        print_json(plain(run))
    else:
        reasons = "; ".join(run.reasons)
        print_facts({"run": run.run_id, "state": state, "version": run.version, "reasons": reasons})
    if run.state == trainer_pb2.RUN_STATE_REJECTED:
        raise typer.Exit(REFUSED)
    if run.state not in {trainer_pb2.RUN_STATE_SUCCEEDED, trainer_pb2.RUN_STATE_SKIPPED}:
        fail(f"the run {state}: {'; '.join(run.reasons)}")


@app.command()
def status(as_json: Json = False) -> None:
    """Say what serves and whether retraining is due."""
    settings = Settings()
    with one_line_errors():
        with grpc.insecure_channel(settings.trainer) as channel:
            training = operating.status(channel)
        with grpc.insecure_channel(settings.inference) as channel:
            serving = operating.model_status(channel)
    if as_json:
        print_json({"retrain_status": plain(training), "model_status": plain(serving)})
        return
    print_facts(
        {
            "model": serving.model,
            "version": serving.version or "none, the keyword stage answers",
            "labels": serving.label_count,
            "next retrain": training.next_retrain_recommended,
            "new samples": training.logged_data_status.sample_count,
            "drift": "; ".join(training.drift.reasons)
            or ("none" if training.drift.measured else "too few queries yet"),
            "running": f"{training.running.run_id} {training.running.percent} %" if training.running.run_id else "no",
        }
    )


@app.command()
def versions(as_json: Json = False) -> None:
    """List the versions in the registry, newest first."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        answer = operating.versions(channel)
    if as_json:
        print_json(plain(answer))
        return
    print_table(
        ("version", "state", "accuracy", "macro-F1", "recall@3", "registered (UTC)"),
        [
            (
                each.version,
                enum_word(trainer_pb2.VersionState, each.state),
                each.accuracy,
                each.macro_f1,
                each.recall_at_3,
                each.created_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
            )
            for each in answer.versions
        ],
    )


@app.command()
def rollback(reason: Reason = "", as_json: Json = False) -> None:
    """Bring the former champion back on every replica."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel:
        answer = operating.roll_back(channel, getpass.getuser(), reason)
    if as_json:
        print_json(plain(answer))
        return
    print_facts({"version": answer.champion.version, "generation": answer.champion.generation})


@app.command(name="import-examples")
def import_examples(
    files: Annotated[list[Path], typer.Argument(help="Labelled examples, .csv or JSON lines.")], as_json: Json = False
) -> None:
    """Give the running trainer labelled examples: all of them, or none when one is bad."""
    with one_line_errors(), grpc.insecure_channel(Settings().trainer) as channel, progress_bar() as progress:
        task = progress.add_task("import", total=100)
        answer = operating.import_examples(channel, files, lambda done: progress.update(task, completed=done))
    if as_json:
        print_json(plain(answer))
    else:
        print_facts({"imported": answer.imported})
    if answer.errors:
        first = answer.errors[0]
        fail(f"line {first.line}: {first.field}: {first.description} ({len(answer.errors)} bad; none imported)")


def repeated(arguments: Sequence[str]) -> list[str]:
    """Let `--examples a b` mean `--examples a --examples b`, which the parser below does not know."""
    result: list[str] = []
    repeating = False
    for index, argument in enumerate(arguments):
        if argument.startswith("-"):
            repeating = argument == MULTIPLE
        elif repeating and arguments[index - 1] != MULTIPLE:
            result.append(MULTIPLE)
        result.append(argument)
    return result


def main() -> None:
    """Run the command line."""
    app(repeated(sys.argv[1:]))


if __name__ == "__main__":
    main()
