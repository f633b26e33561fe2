"""The `moodfood` command, assembled from the files of this folder: one for each group of commands."""

import sys

import typer

from services.cli import experiment, labels, offline, queries, runs, schedule, upkeep, versions
from services.cli.arguments import repeated
from services.cli.output import FAILED, note
from services.cli.up.start import up as start_together
from services.transport.settings import BadSetting
from services.transport.startup import PortTaken

app = typer.Typer(
    name="moodfood",
    help="Text classifiers that keep learning while they serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def up() -> None:
    """Start inference, trainer and gateway here and stop them together."""
    raise typer.Exit(start_together())


app.command()(versions.status)
app.command()(queries.classify)
app.command()(runs.retrain)
app.command()(versions.rollback)
app.command()(offline.train)
app.command()(offline.evaluate)
app.command()(upkeep.backup)
app.command()(upkeep.restore)
app.command()(upkeep.doctor)
app.command()(upkeep.migrate)

app.add_typer(runs.app, name="runs")
app.add_typer(versions.app, name="versions")
app.add_typer(labels.app, name="labels")
app.add_typer(experiment.app, name="experiment")
app.add_typer(schedule.app, name="schedule")

# The name that `labels import` had first.
app.command(name="import-examples", hidden=True)(labels.import_examples)


def main() -> None:
    """Run the command line."""
    try:
        app(repeated(sys.argv[1:]))
    except (BadSetting, PortTaken) as error:
        note(str(error))
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
