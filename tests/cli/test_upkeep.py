"""`moodfood backup`, `restore` and `doctor` as an operator calls them."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from services.cli.__main__ import app
from services.trainer.database.database import DATABASE_FILE
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.registries import MODEL, database_beside
from tests.system import free_ports


@pytest.fixture
def data(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder with a database that agrees with the models, named by the environment."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(models / DATABASE_FILE, folder)
    (port,) = free_ports(1)
    monkeypatch.setenv("MOODFOOD_DATA_DIR", str(folder))
    monkeypatch.setenv("MOODFOOD_MODELS_DIR", str(models))
    monkeypatch.setenv("MOODFOOD_MODEL", MODEL)
    monkeypatch.setenv("MOODFOOD_TRAINER_PORT", str(port))
    monkeypatch.setenv("MOODFOOD_INFERENCE_PORT", "1")
    say(folder, "one")
    yield folder
    structlog.reset_defaults()  # the commands have sent the logs to a stream that is closed now


def say(data: Path, *texts: str) -> None:
    database = database_beside(data)
    FeedbackStore(database).add([Feedback(text, ("soup",)) for text in texts])
    database.close()


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def test_backup_comes_back_and_the_doctor_finds_nothing_wrong(data: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "backup.db")
    done = call("backup", file, "--json")
    assert (done.exit_code, json.loads(done.stdout)["feedback"], json.loads(done.stdout)["versions"]) == (0, 1, 2)
    say(data, "two")
    done = call("restore", file, "--json")
    restored = json.loads(done.stdout)
    assert (done.exit_code, restored["feedback"], restored["erasures_made_again"]) == (0, 1, 0)
    assert Path(restored["replaced_database"]).is_file()
    # The trainer confirms the champion when it starts; the doctor does the same.
    looked = call("doctor")
    assert (looked.exit_code, "was not finished; call `moodfood doctor --mend`" in looked.stdout) == (1, True)
    mended = call("doctor", "--mend", "--json")
    assert (mended.exit_code, json.loads(mended.stdout)["healthy"]) == (0, True)
    looked = call("doctor", "--json")
    assert (looked.exit_code, json.loads(looked.stdout)) == (0, {"healthy": True, "found": []})


def test_nothing_is_restored_while_a_trainer_answers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "backup.db")
    assert call("backup", file).exit_code == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MOODFOOD_TRAINER_PORT", str(server.getsockname()[1]))
        refused = call("restore", file)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "a trainer answers at 127.0.0.1:" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("restore", "nowhere.db"), "there is no file nowhere.db"),
        (("backup", "."), "is a folder"),
    ],
)
def test_file_that_cannot_be_used_is_named_in_one_line(data: Path, arguments: tuple[str, ...], problem: str) -> None:
    refused = call(*arguments)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert problem in refused.stderr


@pytest.mark.parametrize(
    ("url", "arguments", "problem"),
    [
        ("postgresql://anna:hush@127.0.0.1:1/moodfood", ("backup", "new.db"), "pg_dump"),
        ("postgresql://anna:hush@127.0.0.1:1/moodfood", ("restore", "new.db"), "pg_restore"),
        ("postgresql://anna:hush@127.0.0.1:1/moodfood", ("doctor",), "cannot be reached"),
        ("mysql://anna:hush@127.0.0.1/moodfood", ("doctor",), "is not the URL of a database"),
        ("mysql://anna:hush@127.0.0.1/moodfood", ("backup", "new.db"), "is not the URL of a database"),
    ],
)
def test_server_is_named_without_its_password(
    data: Path, monkeypatch: pytest.MonkeyPatch, url: str, arguments: tuple[str, ...], problem: str
) -> None:
    monkeypatch.setenv("MOODFOOD_DATABASE_URL", url)
    refused = call(*arguments)
    assert (refused.exit_code, problem in refused.output, "hush" in refused.output) == (1, True, False)
