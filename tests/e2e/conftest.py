import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.database.database import DATABASE_FILE
from tests.registries import MODEL
from tests.system import System, eventually, system


@pytest.fixture(scope="module")
def shared_system(small_data: Path, trained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system on a small model with two versions; version 1 is the champion when the first test begins."""
    folder = tmp_path_factory.mktemp("system")
    shutil.copytree(small_data, folder / "data")
    shutil.copytree(trained_models, folder / "models")
    (folder / "models" / DATABASE_FILE).rename(folder / "data" / DATABASE_FILE)
    with system(folder / "data", folder / "models", MODEL) as running:
        yield running


@pytest.fixture
def live(shared_system: System) -> System:
    """The running system that the tests of a module share.

    A test meets data, versions and champion as the tests before it left them, so it compares with what it finds. It
    leaves all three services running.
    """
    eventually(shared_system.ready, "all services ready")
    return shared_system
