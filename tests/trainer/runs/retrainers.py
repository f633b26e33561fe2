"""A retrainer on folders of a test, and rehearsals that pass, fail or never end."""

import asyncio
from pathlib import Path

from moodfood.registry.v1 import manifest_pb2

from services.trainer.evaluation.gate import Rule
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.rehearsals import Rehearsals, Rehearse
from services.trainer.runs.events import EventLog
from services.trainer.runs.runner import Retrainer
from services.trainer.runs.store import RunStore
from tests.conftest import small_plan


async def passes(_manifest: manifest_pb2.Manifest) -> tuple[Rule, ...]:
    return (Rule("rehearsal_loads", True, 0, 0, "loaded"),)


async def fails(_manifest: manifest_pb2.Manifest) -> tuple[Rule, ...]:
    return (Rule("rehearsal_loads", False, 1, 0, "inference crashed"),)


async def never_ends(_manifest: manifest_pb2.Manifest) -> tuple[Rule, ...]:
    await asyncio.sleep(3600)
    return ()


def retrainer(
    registry: ModelRegistry, data: Path, folder: Path, target: str, rehearse: Rehearse = passes
) -> tuple[Retrainer, RunStore]:
    store = RunStore(folder / "runs")
    subject = Retrainer(
        store,
        registry,
        Champion(registry, [target]),
        EventLog(folder / "queries.jsonl", folder / "retrain.log"),
        lambda _run_id, _snapshot_id: small_plan(data, registry.folder.parent),
        folder / "runs" / ".lock",
        Rehearsals(registry, rehearse),
    )
    return subject, store
