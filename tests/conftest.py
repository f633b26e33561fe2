"""Shared fixtures: a small real model, trained once, and copies of its registry that a test may break."""

import fcntl
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from services.trainer.database.database import Database, file_url
from services.trainer.database.migrate import migrate
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.plan import Plan
from services.trainer.runs.retrain import retrain
from services.trainer.runs.stages import RunStage
from tests.databases import PostgresServer, running_postgres
from tests.object_store import ObjectStore, running_object_store
from tests.registries import MODEL, database_beside, empty_database, open_registry, promote

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "data"

ENCODER = ROOT / "models" / "encoder" / "all-minilm-l6-v2"

SMALL_LABELS = (
    "cuisine_italian",
    "emotion_sad",
    "flavor_chocolate",
    "flavor_spicy",
    "goal_comfort",
    "meal_breakfast",
    "temperature_hot",
    "weather_rainy",
)


# Threads of OpenBLAS that wait for one another spin. Beside other processes on two cores, a training with two threads
# takes five times as long as one with a single thread. Where a service asks for two, they at least sleep early.
FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_THREAD_TIMEOUT": "4"}


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """Keep this process to one thread of linear algebra, and the processes that it starts to few that spin."""
    with pytest.MonkeyPatch.context() as environment, threadpool_limits(1):
        for name, value in FEW_THREADS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def _one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keep one event loop for all tests of a process.

    gRPC has one queue of events for a process. With a loop for each test, a late event of an ended test failed the test
    that ran then, with "Event loop is closed".
    """
    yield  # noqa: PT022 - a fixture that returned would give the loop back at once


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the tests of this process."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """Name of a database with all tables and no rows, which the tests copy."""
    name = postgres.create()
    database = Database(postgres.url(name))
    migrate(database)
    database.close()
    return name


@pytest.fixture(scope="session")
def _empty_postgres() -> list[str]:
    """Names of databases with all tables and no rows, which earlier tests have used. To make one takes longer."""
    return []


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no rows, which the tests copy."""
    path = tmp_path_factory.mktemp("database") / "moodfood.db"
    path.write_bytes(empty_database())
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """An empty SQLite file of this test."""
    return file_url(Path(shutil.copy(migrated_sqlite, tmp_path / "test.db")))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database of this test, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    empty: list[str] = request.getfixturevalue("_empty_postgres")
    name = empty.pop() if empty else server.create(request.getfixturevalue("migrated_postgres"))
    yield server.url(name)
    if server.empty(name):
        empty.append(name)
    else:
        server.drop(name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The database of `database_url`."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the shipped examples of eight labels."""
    folder = tmp_path_factory.mktemp("data")
    taxonomy = json.loads((SHIPPED / "taxonomy" / "mood_food_taxonomy.json").read_text())
    taxonomy["labels"] = [entry for entry in taxonomy["labels"] if entry["label"] in SMALL_LABELS]
    (folder / "taxonomy").mkdir()
    (folder / "taxonomy" / "mood_food_taxonomy.json").write_text(json.dumps(taxonomy))
    shutil.copytree(SHIPPED / "catalogue", folder / "catalogue")
    for name in ("train/mood_food.jsonl", "held_out.jsonl"):
        source, target = SHIPPED / "examples" / name, folder / "examples" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = (json.loads(line) for line in source.read_text().splitlines())
        kept = (dict(row, labels=[label for label in row["labels"] if label in SMALL_LABELS]) for row in rows)
        target.write_text("".join(json.dumps(row) + "\n" for row in kept if row["labels"]))
    golden = [("chocolate please", "flavor_chocolate"), ("pizza", "cuisine_italian"), ("so sad", "emotion_sad")]
    (folder / "examples" / "golden.jsonl").write_text(
        "".join(json.dumps({"text": text, "labels": [label]}) + "\n" for text, label in golden)
    )
    return folder


def small_plan(data: Path, models: Path, database_url: str = "") -> Plan:
    return Plan(
        models_dir=str(models),
        model=MODEL,
        keep_versions=10,
        seed_files=(str(data / "examples" / "train" / "mood_food.jsonl"),),
        held_out_file=str(data / "examples" / "held_out.jsonl"),
        golden_file=str(data / "examples" / "golden.jsonl"),
        taxonomy_file=str(data / "taxonomy" / "mood_food_taxonomy.json"),
        database_url=database_url,
        encoder_dir=str(ENCODER),
        run_id="test",
    )


@dataclass(frozen=True)
class FirstRun:
    """The run that registered version 1 of an empty repository: where, its number, and its reports in order."""

    models: Path
    version: int
    reports: tuple[tuple[RunStage, float], ...]


@pytest.fixture(scope="session")
def first_run(small_data: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> FirstRun:
    """The first of two runs. Training takes seconds, so each process of a test run copies what one of them trained."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "trained"
    folder.mkdir(exist_ok=True)
    models, told, own = folder / "models", folder / "first_run.json", tmp_path_factory.mktemp("models") / "models"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            models.mkdir()
            database_beside(models).close()
            plan, reports = small_plan(small_data, models), list[tuple[str, float]]()
            version = retrain(plan, lambda stage, share: reports.append((stage.value, share)))
            retrain(plan, lambda _stage, _share: None)
            promote(plan.registry, version)
            plan.database.close()  # so that the database is one file, which tests copy with the models
            told.write_text(json.dumps({"version": version, "reports": reports}))
        shutil.copytree(models, own)
    outcome = json.loads(told.read_text())
    return FirstRun(own, outcome["version"], tuple((RunStage(stage), share) for stage, share in outcome["reports"]))


@pytest.fixture(scope="session")
def trained_models(first_run: FirstRun) -> Path:
    """A model repository with versions 1 and 2, champion 1, both with a transformer stage. Read it, never write it."""
    return first_run.models


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    with running_object_store() as server:
        yield server


@pytest.fixture
def store(_object_store: ObjectStore) -> Iterator[ObjectStore]:
    """A real S3 server, whose bad days end with the test."""
    yield _object_store
    _object_store.heal()


@pytest.fixture
def models(trained_models: Path, tmp_path: Path) -> Path:
    """A copy of the repository that the test may change."""
    folder = tmp_path / "models"
    shutil.copytree(trained_models, folder)
    return folder


@pytest.fixture
def registry(models: Path) -> ModelRegistry:
    return open_registry(models)
