"""What `moodfood up` prints: the lines of every service, and on a terminal a progress bar below them.

Any thread may say something. One thread draws, so that a terminal that went away ends the command and no service waits.
"""

import sys
import time
from collections.abc import Callable
from queue import Empty, Queue
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from services.cli.output import harmless

COLOURS = ("cyan", "yellow", "green", "magenta")
NAME_WIDTH = 9


class Screen:
    """Lines and one progress bar."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._console = Console(file=stream, soft_wrap=True, highlight=False)
        self._waiting: Queue[Callable[[], None]] = Queue()
        self._colours: dict[str, str] = {}
        self._bar: tuple[Progress, TaskID] | None = None
        self._stage = ""

    def say(self, *lines: str) -> None:
        """Print lines together."""
        text = Text("\n".join(harmless(line) for line in lines))
        self._waiting.put(lambda: self._console.print(text))

    def relay(self, name: str, line: str) -> None:
        """Print a line of a service after the time and the name of the service."""
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        text = Text.assemble((f"{time.strftime('%H:%M:%S')} {name:<{NAME_WIDTH}} | ", colour), harmless(line))
        self._waiting.put(lambda: self._console.print(text))

    def show_stage(self, work: str, stage: str, percent: int) -> None:
        """Show how far some work is: a bar on a terminal, else one line for each stage."""
        self._waiting.put(lambda: self._draw_stage(work, stage, percent))

    def end_work(self) -> None:
        """Take the progress bar away."""
        self._waiting.put(self._take_bar_away)

    def draw(self, seconds: float) -> None:
        """Draw what waits; wait so many seconds for something when nothing does."""
        try:
            self._waiting.get(timeout=seconds)()
            while True:
                self._waiting.get_nowait()()
        except Empty:
            pass

    def close(self) -> None:
        """Draw what waits and leave the terminal as it was."""
        try:
            self.draw(0.01)
        finally:
            self._take_bar_away()

    def _draw_stage(self, work: str, stage: str, percent: int) -> None:
        if not self._console.is_terminal:
            if stage != self._stage:
                self._console.print(Text(f"{work}: {stage}"))
            self._stage = stage
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(),
                       TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())  # fmt: skip
            progress = Progress(*columns, console=self._console, transient=True)
            self._bar = progress, progress.add_task(work, total=100)
            progress.start()
        progress, task = self._bar
        progress.update(task, description=f"{work}: {stage}", completed=percent)

    def _take_bar_away(self) -> None:
        self._stage = ""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
