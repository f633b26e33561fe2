"""A runner on a database of its own, and stand-ins for the training process and for a rehearsal."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb
from sqlalchemy import Connection

from services.language.names import MANIFEST_FILE
from services.trainer.database.database import Database
from services.trainer.database.leases import Leases
from services.trainer.errors import StorageFailed
from services.trainer.registry.registry import ModelRegistry
from services.trainer.registry.versions import DECISION_FILE, EVALUATION_FILE
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.rehearsal import Rehearse
from services.trainer.runs.events import EventLog
from services.trainer.runs.plan import Plan
from services.trainer.runs.process import Train, run_worker
from services.trainer.runs.runner import Runner
from services.trainer.runs.stages import RunStage
from services.trainer.runs.store import RunStore
from services.trainer.storage import to_json
from tests.conftest import small_plan
from tests.registries import database_beside, leases_of


def open_database(folder: Path) -> Database:
    """Return the database of a test, as another trainer would open it."""
    return database_beside(folder / "models")


class TroubledDatabase(Database):
    """A database that goes away: at once, or before or after a number of writes. Until it is back, it stays away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_database(folder).url)
        self.is_away = False
        self.writes = 0
        self.lost_at = self.answer_lost_at = 0

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self._check()
        with super().read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.writes += 1
        self.is_away |= self.writes == self.lost_at
        self._check()
        with super().write() as connection:
            yield connection
        # The transaction is stored, but nobody learns of it.
        self.is_away |= self.writes == self.answer_lost_at
        self._check()

    def _check(self) -> None:
        if self.is_away:
            raise StorageFailed("the database cannot be reached")


async def passes(_manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
    return [manifest_pb2.RuleResult(rule="rehearsal_loads", passed=True, detail="loaded")]


async def fails(_manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
    return [manifest_pb2.RuleResult(rule="rehearsal_loads", passed=False, detail="inference crashed")]


async def never_ends(_manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
    await asyncio.sleep(3600)
    return []


async def registers(plan: Plan) -> AsyncGenerator[pb.TrainingRun, None]:
    """Stand for the training process: report stages and register a copy of version 2 as the challenger."""
    for stage in (RunStage.COLLECT, RunStage.TRAIN, RunStage.REGISTER):
        yield pb.TrainingRun(stage=stage.message, percent=stage.begins_at)
    yield pb.TrainingRun(version=await asyncio.to_thread(copy_version, plan.registry, plan.run_id))


async def trains_for_ever(_plan: Plan) -> AsyncGenerator[pb.TrainingRun, None]:
    """Stand for a training process that never comes to its end."""
    yield pb.TrainingRun(stage=RunStage.TRAIN.message, percent=RunStage.TRAIN.begins_at)
    await asyncio.sleep(3600)


def copy_version(registry: ModelRegistry, run_id: str) -> int:
    """Register a copy of version 2 that was decided against the champion of now, and return its number."""
    versions = registry.versions
    manifest, decision = versions.manifest(2), versions.decision(2)
    decision.champion_version = registry.alias.version()
    manifest.training_run = run_id
    graphs = {file.path: versions.file(2, file.path) for file in manifest.files}

    def contents_of(version: int) -> dict[str, bytes]:
        manifest.version = version
        reports = {MANIFEST_FILE: manifest, EVALUATION_FILE: versions.evaluation(2), DECISION_FILE: decision}
        return {**graphs, **{name: to_json(report).encode() for name, report in reports.items()}}

    return versions.register(contents_of)


def read_events(folder: Path) -> list[str]:
    """Return what the retraining events of a test say, in order."""
    path = folder / "queries.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["status"] for line in lines]


def make_runner(
    registry: ModelRegistry,
    data: Path,
    folder: Path,
    target: str,
    rehearse: Rehearse = passes,
    train: Train = run_worker,
    database: Database | None = None,
) -> tuple[Runner, RunStore]:
    """Return a runner as another trainer would make it: on the database of the test, with connections of its own."""
    database = database or open_database(folder)
    store = RunStore(database)
    subject = Runner(
        store,
        Leases(database),
        registry,
        Champion(registry, leases_of(registry), [target], rehearse),
        EventLog(folder / "queries.jsonl", folder / "retrain.log"),
        small_plan(data, registry.folder.parent),
        train,
    )
    return subject, store
