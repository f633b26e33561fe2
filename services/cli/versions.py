"""`moodfood versions`, `moodfood rollback` and `moodfood status`: what serves, and what could."""

import getpass

import typer
from moodfood.inference.v1 import inference_pb2
from moodfood.trainer.v1 import trainer_pb2

from services.cli.arguments import Json, Reason
from services.cli.connection import INFERENCE, PROMOTION_SECONDS, TRAINER, reach
from services.cli.output import enum_word, plain, print_facts, print_json, print_table

app = typer.Typer(help="Versions of the model: list them, go back to the former one.", invoke_without_command=True)


@app.callback()
def versions(context: typer.Context, as_json: Json = False) -> None:
    """Versions of the model; lists them when no command follows."""
    if context.invoked_subcommand is None:
        list_versions(as_json)


@app.command(name="list")
def list_versions(as_json: Json = False) -> None:
    """List the versions in the registry, newest first."""
    with reach(TRAINER) as trainer:
        answer = trainer.ListModelVersions(trainer_pb2.ListModelVersionsRequest())
    if as_json:
        print_json(plain(answer))
        return
    print_table(
        ("version", "state", "accuracy", "macro-F1", "recall@3", "registered (UTC)"),
        [
            (
                version.version,
                enum_word(trainer_pb2.VersionState, version.state),
                version.accuracy,
                version.macro_f1,
                version.recall_at_3,
                version.created_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
            )
            for version in answer.versions
        ],
    )


@app.command()
def rollback(reason: Reason = "", as_json: Json = False) -> None:
    """Bring the former champion back on every replica."""
    with reach(TRAINER, PROMOTION_SECONDS) as trainer:
        answer = trainer.RollbackModel(trainer_pb2.RollbackModelRequest(by=getpass.getuser(), reason=reason))
    if as_json:
        print_json(plain(answer))
        return
    print_facts({"version": answer.champion.version, "generation": answer.champion.generation})


def status(as_json: Json = False) -> None:
    """Say what serves and whether retraining is due."""
    with reach(TRAINER) as trainer:
        training = trainer.GetRetrainStatus(trainer_pb2.GetRetrainStatusRequest())
    with reach(INFERENCE) as inference:
        serving = inference.GetModelStatus(inference_pb2.GetModelStatusRequest())
    if as_json:
        print_json({"retrain_status": plain(training), "model_status": plain(serving)})
        return
    no_drift = "none" if training.drift.measured else "too few queries yet"
    print_facts(
        {
            "model": serving.model,
            "version": serving.version or "none, the keyword stage answers",
            "labels": serving.label_count,
            "next retrain": training.next_retrain_recommended,
            "new samples": training.logged_data_status.sample_count,
            "drift": "; ".join(training.drift.reasons) or no_drift,
            "running": f"{training.running.run_id} {training.running.percent} %" if training.running.run_id else "no",
        }
    )
