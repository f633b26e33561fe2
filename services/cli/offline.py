"""`moodfood train` and `moodfood evaluate`: commands that need no running service.

They import the training libraries when they run, because that takes seconds.
"""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.arguments import Json
from services.cli.output import REFUSED, fail, one_line_errors, print_facts, print_json, print_rules
from services.trainer.errors import TrainerError
from services.trainer.settings import Settings
from services.transport.logs import configure_logs
from services.transport.settings import load_settings

Models = Annotated[
    Path | None, typer.Option("--models", help="The folder of the models; MOODFOOD_MODELS_DIR if not given.")
]
Model = Annotated[str | None, typer.Option("--model", help="Name of the model; MOODFOOD_MODEL if not given.")]
Encoder = Annotated[
    Path | None, typer.Option("--encoder", help="The sentence encoder's folder; MOODFOOD_ENCODER_DIR if not given.")
]
NoEncoder = Annotated[bool, typer.Option("--no-encoder", help="Leave the transformer stage out.")]
EXAMPLES_HELP = 'JSON lines of {"text": "...", "labels": ["..."]}, CSV with the columns text and labels, or folders.'


def train(
    examples: Annotated[list[Path] | None, typer.Option("--examples", help=EXAMPLES_HELP)] = None,
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
    """Train, validate and register a version from files, without servers; exit with 2 when the gate refuses it.

    The feedback of the data folder is learned too, unless --model or --models name another model than the settings do.
    """
    if bool(examples) == bool(snapshot):
        fail("name either --examples or --snapshot")
    _check_there(*(examples or ()), taxonomy, held_out, golden)
    from services.cli import offline_work
    from services.trainer.rollout.rehearsal import MEBIBYTE
    from services.trainer.runs.plan import Plan

    configure_logs("WARNING")
    settings = load_settings(Settings)
    models_dir, name = models or settings.models_dir, model or settings.model
    # Feedback belongs to the model that the data folder is for; leaving it out would unlearn it.
    own = (models_dir.resolve(), name) == (settings.models_dir.resolve(), settings.model)
    plan = Plan(
        models_dir=str(models_dir),
        models_url=_choose_url(settings, models_dir),
        model=name,
        keep_versions=settings.keep_versions,
        seed_files=tuple(str(path) for path in examples or ()),
        held_out_file=str(held_out or ""),
        golden_file=str(golden or ""),
        taxonomy_file=str(taxonomy or ""),
        database_url=_choose_database(settings, models_dir),
        with_feedback=own,
        encoder_dir="" if no_encoder else str(encoder or settings.encoder_path),
        snapshot_id=snapshot,
    )
    with one_line_errors(TrainerError, OSError):
        summary = offline_work.train(plan, settings.rehearsal_memory_mib * MEBIBYTE)
    if as_json:
        print_json(summary)
    else:
        print_facts({name: value for name, value in summary.items() if name != "rules"})
        print_rules([(rule["name"], rule["passed"], rule["detail"]) for rule in summary["rules"]])
    if not summary["promoted"]:
        raise typer.Exit(REFUSED)


def evaluate(
    examples: Annotated[list[Path], typer.Option("--examples", help=EXAMPLES_HELP)],
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
    _check_there(*examples)
    from services.cli import offline_work
    from services.trainer.runs.plan import Plan

    configure_logs("WARNING")
    settings = load_settings(Settings)
    models_dir = models or settings.models_dir
    plan = Plan(
        models_dir=str(models_dir),
        models_url=_choose_url(settings, models_dir),
        model=model or settings.model,
        keep_versions=settings.keep_versions,
        seed_files=tuple(str(path) for path in examples),
        database_url=_choose_database(settings, models_dir),
        encoder_dir="" if no_encoder else str(encoder or settings.encoder_path),
    )
    with one_line_errors(TrainerError, OSError):
        summary = offline_work.evaluate_version(plan, version)
    print_json(summary) if as_json else print_facts(summary)


def _check_there(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.exists():
            fail(f"there is no file {path}")


def _choose_database(settings: Settings, models_dir: Path) -> str:
    """Return the database that knows the versions in a folder; empty for the one that belongs to that folder alone."""
    return settings.database_location if models_dir.resolve() == settings.models_dir.resolve() else ""


def _choose_url(settings: Settings, models_dir: Path) -> str:
    """Return the address of the models of which a folder has copies; empty for a folder that owns its models."""
    return settings.models_url if models_dir.resolve() == settings.models_dir.resolve() else ""
