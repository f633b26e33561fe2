"""Processes that live and die together: when one ends or a signal comes, all end, and so does what they started."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from services.cli.up.screen import Screen

# The trainer takes the longest to stop: 3 s for its run and 3 s for the calls in flight. Containers get 10 s.
KILL_AFTER_SECONDS = 9.0
DRAW_SECONDS = 0.1
LAST_LINES_SECONDS = 1.0


class Processes:
    """Starts processes, prints their lines and ends them together. Make it before anything can send a signal.

    Attributes:
        stopping: is set before the first process is told to end.

    """

    def __init__(self, screen: Screen, kill_after_seconds: float = KILL_AFTER_SECONDS) -> None:
        self.stopping = threading.Event()
        self._screen = screen
        self._kill_after_seconds = kill_after_seconds
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in a session of its own, so that a Ctrl-C reaches it only through `run`."""
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._relay, args=(name, process), daemon=True)
        reader.start()
        self._processes[name] = process
        self._readers.append(reader)

    def run(self) -> int:
        """Print lines until a signal comes or a process ends, end all, and return the exit status: 0 after a signal."""
        status = 0
        try:
            while not self._signals and not (ended := self._ended()):
                self._screen.draw(DRAW_SECONDS)
            if self._signals:
                self._screen.say("stopping")
            else:
                status = self._processes[ended[0]].returncode
                self._screen.say(f"{ended[0]} ended with status {status}: stopping the others")
        finally:
            self._end_all()
        return 0 if self._signals else abs(status) or 1

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _relay(self, name: str, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            self._screen.relay(name, line.decode(errors="replace").rstrip("\n"))

    def _ended(self) -> list[str]:
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def _end_all(self) -> None:
        self.stopping.set()
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + self._kill_after_seconds
        # A second Ctrl-C means: do not wait.
        while (
            len(self._ended()) < len(self._processes)
            and time.monotonic() < deadline
            and self._signals.count(signal.SIGINT) < 2
        ):
            self._screen.draw(DRAW_SECONDS)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._print_last_lines()

    def _print_last_lines(self) -> None:
        deadline = time.monotonic() + LAST_LINES_SECONDS
        while any(reader.is_alive() for reader in self._readers) and time.monotonic() < deadline:
            self._screen.draw(DRAW_SECONDS)
        self._screen.close()
