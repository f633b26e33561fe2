"""The start of the trainer on a bad day."""

from pathlib import Path
from typing import Any

import pytest
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer import __main__ as main
from services.trainer.errors import ChampionChanged, StorageFailed, TrainerError
from services.trainer.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def trainer(tmp_path: Path) -> main.Trainer:
    return main.Trainer(Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"))


async def test_first_model_is_trained_when_a_storage_that_was_away_is_back(
    trainer: main.Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "FIRST_MODEL_AGAIN_SECONDS", 0.01)
    days, started = [StorageFailed("the bucket is away"), None], list[int]()

    def read() -> None:
        day = days.pop(0)
        if day is not None:
            raise day

    async def start(trigger: pb.Trigger.ValueType) -> pb.TrainingRun:
        started.append(trigger)
        return pb.TrainingRun(run_id="first")

    monkeypatch.setattr(trainer.registry.alias, "read", read)
    monkeypatch.setattr(trainer.runner, "start", start)
    await trainer.train_first_model()
    assert (started, days) == ([pb.TRIGGER_FIRST_MODEL], [])


@pytest.mark.parametrize("error", [StorageFailed("the bucket is away"), ChampionChanged(1, 2)])
async def test_what_cannot_be_mended_now_does_not_keep_the_trainer_from_serving(
    trainer: main.Trainer, monkeypatch: pytest.MonkeyPatch, error: TrainerError
) -> None:
    async def recover(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trainer.runner, "recover", recover)
    await trainer.recover()
