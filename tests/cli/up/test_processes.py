"""Processes that live and die together, in a real process that a test may send signals to."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system import eventually

SUPERVISOR = """
import os, sys
from services.cli.up.processes import Processes
from services.cli.up.screen import Screen
processes = Processes(Screen(), kill_after_seconds=float(sys.argv[1]))
for number, program in enumerate(sys.argv[2:]):
    processes.start(f"child{number}", [sys.executable, "-u", "-c", program], os.environ)
sys.exit(processes.run())
"""
PATIENT = "import time; print('up'); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('up'); time.sleep(60)"  # noqa: E501
ENDS = "import sys; print('bye'); sys.exit(3)"


@contextmanager
def supervisor(output: Path, *programs: str, kill_after: float = 30.0) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
    with output.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(kill_after), *programs],
            env=environment, stdout=target, stderr=target,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def all_up(output: Path, count: int) -> None:
    eventually(lambda: output.read_text().count("| up") == count, f"{count} processes up")


def children(pid: int) -> set[int]:
    listed = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return set(listed).union(*map(children, listed))


def alive(pids: set[int]) -> set[int]:
    return {
        pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_and_what_they_started_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "output"
    with supervisor(output, PATIENT, PARENT) as process:
        all_up(output, 2)
        started = children(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    assert (len(started), alive(started)) == (3, set())


def test_the_end_of_one_ends_the_others_with_its_status(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with supervisor(output, PATIENT, ENDS) as process:
        assert process.wait(timeout=20) == 3
    lines = output.read_text().splitlines()
    assert "child1 ended with status 3: stopping the others" in lines
    assert any(line.endswith("child1    | bye") for line in lines)


def test_a_process_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with supervisor(output, STUBBORN, kill_after=0.5) as process:
        all_up(output, 1)
        started = children(process.pid)
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert alive(started) == set()


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with supervisor(output, STUBBORN, kill_after=300) as process:
        all_up(output, 1)
        process.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in output.read_text(), "stopping")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
