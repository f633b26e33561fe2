"""What the first user does: start everything with one command, use it, stop it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.trainer.database.database import DATABASE_FILE
from tests.conftest import ENCODER, ROOT
from tests.registries import MODEL
from tests.system import System, eventually, free_ports

# The first training takes 20 s on an idle machine.
PATIENCE_SECONDS = 300

pytestmark = pytest.mark.timeout(400)


def environment(folder: Path, ports: dict[str, int], **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "MOODFOOD_DATA_DIR": str(folder / "data"),
        "MOODFOOD_MODELS_DIR": str(folder / "models"),
        "MOODFOOD_ENCODER_DIR": str(ENCODER),
        "MOODFOOD_TRAINER_METRICS_PORT": "0",
        **{f"MOODFOOD_{name.upper()}_PORT": str(port) for name, port in ports.items()},
        **more,
    }


@dataclass(frozen=True)
class Up:
    """A running `moodfood up` and what it printed so far."""

    system: System
    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    def says(self, text: str) -> None:
        """Wait until it has printed a text; fail at once when it ends before."""

        def said() -> bool:
            assert text in self.text or self.process.poll() is None, self.text
            return text in self.text

        eventually(said, f"the line {text!r}", PATIENCE_SECONDS)

    def stop(self, number: signal.Signals) -> None:
        """Send a signal; everything ends with status 0, nothing is left, and nobody reads a traceback."""
        started = descendants(self.process.pid)
        self.process.send_signal(number)
        assert self.process.wait(timeout=15) == 0, self.text
        assert alive(started) == set()
        assert "Traceback" not in self.text


@contextmanager
def everything(
    folder: Path, python: str = sys.executable, project: Path = ROOT, host: str = "127.0.0.1", **more: str
) -> Iterator[Up]:
    """Run `moodfood up` with the data and models of a folder."""
    ports = dict(zip(("inference", "trainer", "gateway"), free_ports(3), strict=True))
    variables = environment(folder, ports, MOODFOOD_HOST=host, **more)
    output = folder / "output"
    with output.open("wb") as target:
        process = subprocess.Popen(
            [python, "-m", "services.cli", "up"],
            cwd=project, env=variables, stdout=target, stderr=target, start_new_session=True,
        )  # fmt: skip
    try:
        yield Up(System(folder / "data", folder / "models", variables, ports), process, output)
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


def test_one_command_starts_everything_and_ready_means_a_trained_model_answers(tmp_path: Path) -> None:
    with everything(tmp_path) as up:
        up.says(f"serving: {up.system.url}  (keywords answer until the first model is trained)\n")
        code, early = up.system.call("/classify", {"text": "rainy and cozy"})
        assert (code, early["method"]) in {(200, "keyword_fallback"), (200, "ml_classifier")}
        up.says(f"ready: {up.system.url}\n")
        assert up.system.version() == 1
        stages = [line for line in up.text.splitlines() if line.startswith("first training: ")]
        assert stages[-1] == "first training: promote"
        assert len(stages) == len(set(stages)) >= 5
        up.says("moodfood status")
        for address in (up.system.inference, up.system.trainer, "/docs", "curl"):
            assert address in up.text
        up.stop(signal.SIGTERM)
    with everything(tmp_path) as again:
        again.says(f"ready: {again.system.url}\n")
        assert "serving: http" not in again.text
        again.stop(signal.SIGINT)


@pytest.mark.parametrize("moment", ["starting inference", "serving: ", "first training: train"])
def test_ctrl_c_ends_everything_at_any_moment(small_data: Path, tmp_path: Path, moment: str) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    with everything(tmp_path) as up:
        up.says(moment)
        up.stop(signal.SIGINT)


def test_nothing_is_left_when_the_supervisor_is_killed(small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    with everything(tmp_path) as up:
        eventually(lambda: up.system.call("/readyz")[0] == 200, "everything up")
        started = descendants(up.process.pid)
        up.process.kill()
        up.process.wait()
        eventually(lambda: not alive(started), "the end of everything that was started", 15)


def test_a_first_training_that_fails_is_told_and_keywords_go_on_answering(small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    train = tmp_path / "data" / "examples" / "train" / "mood_food.jsonl"
    train.write_text(json.dumps({"text": "pizza", "labels": ["no_such_label"]}) + "\n")
    shutil.rmtree(tmp_path / "data" / "taxonomy")
    (tmp_path / "data" / "taxonomy").mkdir()
    taxonomy = {"labels": [{"label": "cuisine_italian", "category": "cuisine", "descriptors": ["pizza"]}]}
    (tmp_path / "data" / "taxonomy" / "own.json").write_text(json.dumps(taxonomy))
    with everything(tmp_path) as up:
        up.says("no model yet; `moodfood retrain` tries again")
        assert up.system.intent("pizza") == "cuisine_italian"
        assert "ready: " not in up.text
        up.stop(signal.SIGINT)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_it_runs_on_ipv6_from_a_project_python_and_data_in_folders_with_a_space(
    small_data: Path, trained_models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my food"
    folder.mkdir()
    shutil.copytree(small_data, folder / "data")
    shutil.copytree(trained_models, folder / "models")
    (folder / "models" / DATABASE_FILE).rename(folder / "data" / DATABASE_FILE)
    project = folder / "the project"
    project.symlink_to(ROOT)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    libraries = sysconfig.get_paths()["purelib"]
    with everything(
        folder,
        python=str(folder / "env" / "bin" / "python"),
        project=project,
        host="::1",
        PYTHONPATH=f"{project}:{project / 'gen'}:{libraries}",
        MOODFOOD_MODEL=MODEL,
    ) as up:
        up.says(f"ready: http://[::1]:{up.system.ports['gateway']}\n")
        up.stop(signal.SIGINT)


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
