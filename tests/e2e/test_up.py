"""What the first user does: start everything with one command, use it, stop it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system import System, eventually, free_ports

pytestmark = pytest.mark.timeout(240)


def environment(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    return {
        **os.environ,
        "MOODFOOD_DATA_DIR": str(folder / "data"),
        "MOODFOOD_MODELS_DIR": str(folder / "models"),
        "MOODFOOD_TRAINER_METRICS_PORT": "0",
        **{f"MOODFOOD_{name.upper()}_PORT": str(port) for name, port in ports.items()},
    }


@contextmanager
def everything(folder: Path) -> Iterator[tuple[System, subprocess.Popen[bytes], Path]]:
    """Run `moodfood up` in empty folders; yield it with what it printed so far."""
    ports = dict(zip(("inference", "trainer", "gateway"), free_ports(3), strict=True))
    output = folder / "output"
    with output.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up"],
            cwd=ROOT, env=environment(folder, ports), stdout=target, stderr=target, start_new_session=True,
        )  # fmt: skip
    system = System(folder / "data", folder / "models", environment(folder, ports), ports)
    try:
        yield system, process, output
    finally:
        process.terminate()
        process.wait(timeout=15)


def descendants(pid: int) -> set[int]:
    """Return a process and everything it started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in path.read_text().split()] if path.exists() else []
    return {pid}.union(*(descendants(child) for child in children))


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_one_command_starts_everything_and_one_signal_stops_it(tmp_path: Path, stop: signal.Signals) -> None:
    with everything(tmp_path) as (system, process, output):
        eventually(lambda: f"ready: {system.url}\n" in output.read_text(), "the ready line")
        code, early = system.call("/classify", {"text": "rainy and cozy"})
        assert code == 200
        assert early["method"] in {"keyword_fallback", "ml_classifier"}
        eventually(lambda: system.version() == 1, "the first model")
        if stop is signal.SIGTERM:
            checks = subprocess.run(
                [sys.executable, "scripts/test_api_integration.py", "--url", system.url],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (checks.returncode, checks.stdout.splitlines()[-1]) == (0, "4 of 4 checks passed"), checks.stdout
        text = output.read_text()
        for address in (system.inference, system.trainer, "/docs", "curl", "moodfood status"):
            assert address in text
        started = descendants(process.pid)
        assert len(started) >= 7
        process.send_signal(stop)
        assert process.wait(timeout=10) == 0
        assert alive(started) == set()
    assert "Traceback" not in output.read_text()


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with everything(tmp_path) as (system, process, _output):
        eventually(lambda: system.call("/readyz")[0] == 200, "everything up")
        started = descendants(process.pid)
        process.kill()
        process.wait()
        eventually(lambda: not alive(started), "the end of everything that was started", 15)


def test_taken_port_is_one_line_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"inference": free_ports(1)[0], "trainer": free_ports(1)[0], "gateway": taken.getsockname()[1]}
        finished = subprocess.run(
            [sys.executable, "-m", "services.cli", "up"],
            cwd=ROOT, env=environment(tmp_path, ports), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert str(ports["gateway"]) in line
    assert "MOODFOOD_GATEWAY_PORT" in line


@pytest.mark.parametrize("service", ["inference", "trainer", "gateway"])
def test_each_service_says_by_itself_which_port_is_taken(tmp_path: Path, service: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = subprocess.run(
            [sys.executable, "-m", f"services.{service}"],
            cwd=ROOT, env=environment(tmp_path, {service: port}), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert finished.returncode == 1
    assert f"set MOODFOOD_{service.upper()}_PORT" in finished.stderr
    assert str(port) in finished.stderr
    assert "Traceback" not in finished.stderr


def test_integration_script_fails_when_nothing_runs() -> None:
    finished = subprocess.run(
        [sys.executable, "scripts/test_api_integration.py", "--url", f"http://127.0.0.1:{free_ports(1)[0]}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stdout.count("FAIL") == 4
