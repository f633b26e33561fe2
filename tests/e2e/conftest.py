import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registries import MODEL
from tests.system import System, system


@pytest.fixture
def live(small_data: Path, trained_models: Path, tmp_path: Path) -> Iterator[System]:
    """A running system on a small model, version 1 being its champion."""
    data, models = tmp_path / "data", tmp_path / "models"
    shutil.copytree(small_data, data)
    shutil.copytree(trained_models, models)
    with system(data, models, MODEL) as running:
        yield running
