import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from services.cli.__main__ import app
from services.trainer.database.leases import CHAMPION, Leases
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from tests.registries import MODEL, database_beside, history_of


@pytest.fixture
def data(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of its own with feedback in it, named by the environment with an empty model repository."""
    data = tmp_path / "data"
    monkeypatch.setenv("MOODFOOD_DATA_DIR", str(data))
    monkeypatch.setenv("MOODFOOD_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MOODFOOD_MODEL", MODEL)
    data.mkdir()
    FeedbackStore(database_beside(data)).add(
        [Feedback(f"something glorptastic number {n}", ("flavor_spicy",)) for n in range(5)]
    )
    yield small_data
    structlog.reset_defaults()  # the commands have sent the logs to a stream that is closed now


def registry_of(folder: Path, model: str = MODEL) -> ModelRegistry:
    """Return the registry that the settings name."""
    return ModelRegistry(folder / "models", model, 10, database_beside(folder / "data"))


def train(data: Path, *arguments: str) -> Result:
    examples, taxonomy = data / "examples", data / "taxonomy" / "mood_food_taxonomy.json"
    return CliRunner().invoke(
        app,
        [
            "train", "--json", "--no-encoder", "--taxonomy", str(taxonomy),
            "--examples", str(examples / "train" / "mood_food.jsonl"),
            "--held-out", str(examples / "held_out.jsonl"),
            *arguments,
        ],
    )  # fmt: skip


def test_training_offline_learns_the_feedback_of_the_data_folder_and_promotes(data: Path, tmp_path: Path) -> None:
    result = train(data)
    assert result.exit_code == 0, result.output
    registry = registry_of(tmp_path)
    assert registry.versions.manifest(1).snapshot.feedback_records == 5
    last = history_of(registry)[-1]
    assert (registry.alias.version(), last.by) == (1, "moodfood train")
    assert registry.versions.is_rehearsed(1)
    assert json.loads(result.stdout)["feedback_records"] == 5


def test_training_offline_of_another_model_learns_no_feedback(data: Path, tmp_path: Path) -> None:
    result = train(data, "--model", "other")
    assert result.exit_code == 0, result.output
    assert registry_of(tmp_path, "other").versions.manifest(1).snapshot.feedback_records == 0


def test_training_offline_changes_nothing_while_somebody_else_changes_the_champion(data: Path, tmp_path: Path) -> None:
    leases = Leases(database_beside(tmp_path / "data"))
    lease = leases.take(CHAMPION)
    assert lease is not None
    result = train(data)
    leases.give_back(lease)
    registry = registry_of(tmp_path)
    assert result.exit_code == 1
    assert "another promotion or rollback is going on" in result.stderr
    assert (registry.versions.numbers(), registry.alias.read()) == ([1], None)


def test_file_that_is_not_there_is_named_in_one_line(data: Path) -> None:
    result = train(data, "--golden", "nowhere.jsonl")
    assert result.exit_code == 1
    assert result.stderr == "moodfood: there is no file nowhere.jsonl\n"
