"""A runner on stores of its own, and rehearsals that stand for a real inference process."""

import asyncio
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2

from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.rehearsal import Rehearse
from services.trainer.runs.events import EventLog
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore
from tests.conftest import small_plan


async def passes(_manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
    return [manifest_pb2.RuleResult(rule="rehearsal_loads", passed=True, detail="loaded")]


async def fails(_manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
    return [manifest_pb2.RuleResult(rule="rehearsal_loads", passed=False, detail="inference crashed")]


async def never_ends(_manifest: manifest_pb2.Manifest) -> list[manifest_pb2.RuleResult]:
    await asyncio.sleep(3600)
    return []


def make_runner(
    registry: ModelRegistry, data: Path, folder: Path, target: str, rehearse: Rehearse = passes
) -> tuple[Runner, RunStore]:
    store = RunStore(folder / "runs")
    subject = Runner(
        store,
        registry,
        Champion(registry, [target], rehearse),
        EventLog(folder / "queries.jsonl", folder / "retrain.log"),
        small_plan(data, registry.folder.parent),
    )
    return subject, store
