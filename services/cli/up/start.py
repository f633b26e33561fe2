"""`moodfood up`: inference, trainer and gateway on this machine, started and stopped together."""

import sys
import threading

from services.cli.settings import Settings
from services.cli.up.processes import Processes
from services.cli.up.readiness import announce
from services.cli.up.screen import Screen
from services.transport.settings import load_settings
from services.transport.startup import listen

SERVICES = ("inference", "trainer", "gateway")


def up() -> int:
    """Run the three services until a signal or until one of them ends; return the exit status.

    Raises:
        BadSetting: a variable cannot be used, or the data folder holds two taxonomies.
        PortTaken: a service could not listen.

    """
    screen = Screen()
    processes = Processes(screen)
    settings = load_settings(Settings)
    check_ports(settings)
    labels = settings.taxonomy_path or "those of the examples"
    screen.say(f"starting inference, trainer and gateway; data: {settings.data_dir}, labels: {labels}")
    environment = settings.process_environment()
    for name in SERVICES:
        processes.start(name, [sys.executable, "-m", f"services.{name}"], environment)
    threading.Thread(target=announce, args=(settings, screen, processes.stopping), daemon=True).start()
    return processes.run()


def check_ports(settings: Settings) -> None:
    """Raise PortTaken for the first port that is taken."""
    for variable, port in (
        ("MOODFOOD_GATEWAY_PORT", settings.gateway_port),
        ("MOODFOOD_INFERENCE_PORT", settings.inference_port),
        ("MOODFOOD_TRAINER_PORT", settings.trainer_port),
    ):
        listen(settings.host, port, variable).close()
