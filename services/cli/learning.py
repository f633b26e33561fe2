"""`train` and `evaluate`: the trainer's library used in place, without servers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from moodfood.registry.v1 import manifest_pb2

from services.cli.output import note, progress_bar
from services.trainer.dataset.files import read_examples
from services.trainer.errors import BrokenData, NoChampion
from services.trainer.evaluation.gate import Rule
from services.trainer.evaluation.metrics import Evaluation
from services.trainer.graphs.embeddings import open_embeddings
from services.trainer.graphs.version import open_serving_model
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.rehearsal import MEBIBYTE, Stage, rehearse
from services.trainer.rollout.rehearsals import Rehearsals
from services.trainer.runs.measure import measure
from services.trainer.runs.plan import Plan
from services.trainer.runs.retrain import Result, retrain
from services.trainer.runs.stages import RunStage

KEEP_VERSIONS = 10
BY = "moodfood train"
REHEARSAL_BYTES = 1024 * MEBIBYTE
NO_FOLDER = "/nonexistent"


def train(
    examples: Sequence[Path],
    taxonomy: Path | None,
    held_out: Path | None,
    golden: Path | None,
    models: Path,
    model: str,
    encoder: Path | None,
    snapshot_id: str,
) -> dict[str, Any]:
    """Train, validate and register a version, and make it the champion if the gate lets it.

    It learns from examples, or from the snapshot of an earlier run again.

    Raises:
        TrainerError: no version was registered.

    """
    began = time.perf_counter()
    for path in examples:
        if not path.is_file():
            raise BrokenData(f"there is no file {path}")
    plan = Plan(
        models_dir=str(models),
        model=model,
        keep_versions=KEEP_VERSIONS,
        seed_files=tuple(str(path) for path in examples),
        held_out_file=_name(held_out),
        golden_file=_name(golden),
        taxonomy_file=_name(taxonomy),
        encoder_dir=str(encoder) if encoder else "",
        snapshot_id=snapshot_id,
        run_id=BY,
    )
    if encoder is not None and not encoder.is_dir():
        note(f"there is no encoder in {encoder}: training without the transformer stage; `make encoder` builds it")
    with progress_bar() as progress:
        task = progress.add_task("start", total=100)

        def report(stage: RunStage, share: float) -> None:
            progress.update(task, description=stage.label, completed=stage.percent(share))

        result = retrain(plan, report)
        progress.update(task, description="done", completed=100)
    seconds = time.perf_counter() - began
    rehearsed = asyncio.run(_rehearsed(plan, result)) if result.decision.promoted else ()
    result = replace(result, decision=replace(result.decision, rules=(*result.decision.rules, *rehearsed)))
    _conclude(plan.registry, result)
    return _summary(plan, result, seconds)


def evaluate_version(
    models: Path, model: str, examples: Sequence[Path], version: int, encoder: Path | None
) -> dict[str, Any]:
    """Measure a version, the champion for 0, on examples; those without labels are taken as out of scope.

    Raises:
        TrainerError: there is no such version, or a file cannot be read.

    """
    registry = ModelRegistry(models, model, KEEP_VERSIONS)
    alias = registry.champion()
    if version == 0:
        if alias is None:
            raise NoChampion
        version = alias.version
    read, malformed = read_examples(examples)
    if not any(example.labels for example in read):
        raise BrokenData("the examples hold no line with a label to compare with")
    embeddings = open_embeddings(str(encoder) if encoder else "", registry.embeddings_folder)
    scorer, size = open_serving_model(registry, version, embeddings)
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=None)
        evaluation = measure(scorer, read, size)
        progress.update(task, total=1, completed=1)
    return {
        "model": model,
        "version": version,
        "transformer_stage": scorer.has_head,
        "examples": evaluation.held_out_examples,
        "malformed": len(malformed),
        **_measured(evaluation),
    }


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    outside = {
        "out_of_scope_examples": evaluation.out_of_scope_examples,
        "out_of_scope_recall": evaluation.out_of_scope_recall,
        "out_of_scope_recall_at_95_coverage": evaluation.out_of_scope_recall_at_95,
    }
    return {
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "recall_at_3": evaluation.recall_at_3,
        "expected_calibration_error": evaluation.calibration_error,
        "coverage": evaluation.coverage,
        **(outside if evaluation.out_of_scope_examples else {}),
        "escalated": evaluation.escalated,
        "query_micros": evaluation.query_micros,
        "transformer_query_micros": evaluation.transformer_query_micros,
        "mean_query_micros": evaluation.mean_query_micros,
        "model_bytes": evaluation.model_bytes,
    }


def _name(path: Path | None) -> str:
    if path is not None and not path.is_file():
        raise BrokenData(f"there is no file {path}")
    return str(path) if path else ""


async def _rehearsed(plan: Plan, result: Result) -> tuple[Rule, ...]:
    """Serve the version in an inference process of its own, keep what was found with it, and return that."""
    stage = Stage(
        {
            "MOODFOOD_MODELS_DIR": plan.models_dir,
            "MOODFOOD_MODEL": plan.model,
            "MOODFOOD_ENCODER_DIR": plan.encoder_dir or NO_FOLDER,
        },
        REHEARSAL_BYTES,
    )
    found: tuple[Rule, ...] = ()

    async def rehearse_here(manifest: manifest_pb2.Manifest) -> tuple[Rule, ...]:
        nonlocal found
        found = await rehearse(stage, manifest)
        return found

    await Rehearsals(plan.registry, rehearse_here).run(result.version)
    return found


def _conclude(registry: ModelRegistry, result: Result) -> None:
    if not result.decision.promoted:
        registry.record_refusal(result.version, BY, "; ".join(result.decision.reasons))
        return
    before = registry.champion()
    registry.move_alias(
        result.version,
        before.version if before else 0,
        registry.next_generation(),
        manifest_pb2.HISTORY_ACTION_PROMOTED,
        BY,
        "passed the gate",
    )
    registry.prune()


def _summary(plan: Plan, result: Result, seconds: float) -> dict[str, Any]:
    evaluation = result.evaluation
    return {
        "model": plan.model,
        "version": result.version,
        "promoted": result.decision.promoted,
        "transformer_stage": plan.registry.manifest(result.version).HasField("head"),
        **_measured(evaluation),
        "train_examples": result.snapshot.train_examples,
        "held_out_examples": result.snapshot.held_out_examples,
        "dropped": dict(result.snapshot.dropped),
        "snapshot": result.snapshot.id,
        "seconds": round(seconds, 2),
        "rules": [asdict(rule) for rule in result.decision.rules],
    }
