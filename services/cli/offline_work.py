"""The work of `moodfood train` and `moodfood evaluate`: the trainer's library used in place, without servers."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from moodfood.registry.v1 import manifest_pb2

from services.cli.output import note, plain, progress_bar
from services.trainer.database.leases import Leases
from services.trainer.database.migrate import migrate
from services.trainer.dataset.files import read_examples
from services.trainer.errors import BrokenData, NoChampion, VersionRefused
from services.trainer.evaluation.reports import evaluation_report
from services.trainer.graphs.embeddings import open_embeddings
from services.trainer.graphs.version import open_serving_model
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.rollout.rehearsal import RehearsalSetup, rehearse
from services.trainer.runs.measure import measure
from services.trainer.runs.plan import Plan
from services.trainer.runs.retrain import retrain
from services.trainer.runs.stages import RunStage

BY = "moodfood train"
NO_FOLDER = "/nonexistent"


def train(plan: Plan, rehearsal_memory_bytes: int) -> dict[str, Any]:
    """Train, validate and register a version, and make it the champion if the gate lets it.

    Running replicas are not asked: they follow the champion alias by themselves within seconds.

    Raises:
        TrainerError: no version was registered, or it was registered and another champion was made meanwhile.

    """
    began = time.perf_counter()
    plan = replace(plan, run_id=BY)
    if plan.encoder_dir and not Path(plan.encoder_dir).is_dir():
        note(f"no encoder in {plan.encoder_dir}: training without the transformer stage; `make encoder` builds it")
    migrate(plan.database)
    with progress_bar() as progress:
        task = progress.add_task("start", total=100)

        def report(stage: RunStage, share: float) -> None:
            progress.update(task, description=stage.value, completed=stage.percent(share))

        version = retrain(plan, report)
        report(RunStage.REHEARSE, 0.0)
        _promote(plan, version, rehearsal_memory_bytes)
        progress.update(task, description="done", completed=100)
    plan.registry.prune()
    return _summarise(plan, version, time.perf_counter() - began)


def _promote(plan: Plan, version: int, rehearsal_memory_bytes: int) -> None:
    """Promote a version that passed the gate, with the same steps as the trainer; record one that was refused."""
    registry = plan.registry
    decision = registry.versions.decision(version)
    if not decision.promoted:
        registry.record_refusal(version, BY)
        return
    environment = {
        "MOODFOOD_MODELS_DIR": plan.models_dir,
        "MOODFOOD_MODELS_URL": plan.models_url,
        "MOODFOOD_MODEL": plan.model,
        "MOODFOOD_ENCODER_DIR": plan.encoder_dir or NO_FOLDER,
    }
    setup = RehearsalSetup(environment, rehearsal_memory_bytes)
    champion = Champion(registry, Leases(plan.database), (), partial(rehearse, setup))
    try:
        asyncio.run(champion.promote(Change(version, decision.champion_version, BY, "passed the gate")))
    except VersionRefused as error:
        # The registry keeps which rule of the rehearsal failed; the summary shows it.
        note(str(error))


def evaluate_version(plan: Plan, version: int) -> dict[str, Any]:
    """Measure a version, the champion for 0, on examples; those without labels are taken as out of scope.

    Args:
        plan: the registry, the encoder, and the examples as its seed files.
        version: number of the version.

    Raises:
        TrainerError: there is no such version, or a file cannot be read.

    """
    migrate(plan.database)
    registry = plan.registry
    version = version or registry.alias.version()
    if version == 0:
        raise NoChampion
    read, malformed = read_examples([Path(name) for name in plan.seed_files])
    if not any(example.labels for example in read):
        raise BrokenData("the examples hold no line with a label to compare with")
    embeddings = open_embeddings(plan.encoder_dir, registry.embeddings_folder)
    cascade, size = open_serving_model(registry, version, embeddings)
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=None)
        report = evaluation_report(measure(cascade, read, size))
        progress.update(task, total=1, completed=1)
    return {
        "model": plan.model,
        "version": version,
        "transformer_stage": cascade.has_head,
        "examples": report.held_out_examples,
        "malformed": len(malformed),
        **_measurements(report),
    }


def _measurements(report: manifest_pb2.EvaluationReport) -> dict[str, Any]:
    outside = {
        "out_of_scope_examples": report.out_of_scope_examples,
        "out_of_scope_recall": report.out_of_scope_recall,
        "out_of_scope_recall_at_95_coverage": report.out_of_scope_recall_at_95,
    }
    return {
        "accuracy": report.accuracy,
        "macro_f1": report.macro_f1,
        "recall_at_3": report.recall_at_3,
        "expected_calibration_error": report.expected_calibration_error,
        "coverage": report.coverage,
        **(outside if report.out_of_scope_examples else {}),
        "escalated": report.escalated,
        "query_micros": report.query_micros,
        "transformer_query_micros": report.transformer_query_micros,
        "mean_query_micros": report.mean_query_micros,
        "model_bytes": report.model_bytes,
    }


def _summarise(plan: Plan, version: int, seconds: float) -> dict[str, Any]:
    versions = plan.registry.versions
    manifest, decision = versions.manifest(version), versions.decision(version)
    rules = [plain(rule) for rule in decision.rules]
    return {
        "model": plan.model,
        "version": version,
        "promoted": decision.promoted,
        "transformer_stage": manifest.HasField("head"),
        **_measurements(versions.evaluation(version)),
        "train_examples": manifest.snapshot.train_examples,
        "held_out_examples": manifest.snapshot.held_out_examples,
        "feedback_records": manifest.snapshot.feedback_records,
        "dropped": dict(manifest.snapshot.dropped),
        "snapshot": manifest.snapshot.id,
        "seconds": round(seconds, 2),
        "rules": [{"name": rule.pop("rule"), **rule} for rule in rules],
    }
