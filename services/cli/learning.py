"""`train` and `evaluate`: the trainer's library used in place, without servers."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moodfood.registry.v1 import manifest_pb2

from services.cli.output import progress_bar
from services.trainer.errors import BrokenData, NoChampion
from services.trainer.evaluation import evaluate
from services.trainer.examples import read_examples
from services.trainer.plan import Plan
from services.trainer.registry import ModelRegistry
from services.trainer.retraining import Result, retrain
from services.trainer.scoring import GraphScorer
from services.trainer.stages import RunStage

KEEP_VERSIONS = 10
BY = "moodfood train"


def train(
    examples: Sequence[Path],
    taxonomy: Path | None,
    held_out: Path | None,
    golden: Path | None,
    models: Path,
    model: str,
) -> dict[str, Any]:
    """Train, validate and register a version, and make it the champion if the gate lets it.

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
        run_id=BY,
    )
    with progress_bar() as progress:
        task = progress.add_task("start", total=100)

        def report(stage: RunStage) -> None:
            progress.update(task, description=stage.label, completed=stage.value)

        result = retrain(plan, report)
        progress.update(task, description="done", completed=100)
    _conclude(plan.registry, result)
    return _summary(plan, result, time.perf_counter() - began)


def evaluate_version(models: Path, model: str, examples: Sequence[Path], version: int) -> dict[str, Any]:
    """Measure a version, the champion for 0, on examples; those without labels are left out and counted.

    Raises:
        TrainerError: there is no such version, or a file cannot be read.

    """
    registry = ModelRegistry(models, model, KEEP_VERSIONS)
    alias = registry.champion()
    if version == 0:
        if alias is None:
            raise NoChampion
        version = alias.version
    graph, manifest = registry.graph(version), registry.manifest(version)
    read, malformed = read_examples(examples)
    labelled = [example for example in read if example.labels]
    if not labelled:
        raise BrokenData("the examples hold no line with a label to compare with")
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=None)
        evaluation = evaluate(GraphScorer(graph, manifest.labels), labelled, [], len(graph))
        progress.update(task, total=1, completed=1)
    return {
        "model": model,
        "version": version,
        "examples": len(labelled),
        "without_labels": len(read) - len(labelled),
        "malformed": len(malformed),
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "recall_at_3": evaluation.recall_at_3,
        "query_micros": evaluation.query_micros,
        "model_bytes": evaluation.model_bytes,
    }


def _name(path: Path | None) -> str:
    if path is not None and not path.is_file():
        raise BrokenData(f"there is no file {path}")
    return str(path) if path else ""


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
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "recall_at_3": evaluation.recall_at_3,
        "query_micros": evaluation.query_micros,
        "model_bytes": evaluation.model_bytes,
        "train_examples": result.snapshot.train_examples,
        "held_out_examples": result.snapshot.held_out_examples,
        "dropped": dict(result.snapshot.dropped),
        "snapshot": result.snapshot.id,
        "seconds": round(seconds, 2),
        "rules": [asdict(rule) for rule in result.decision.rules],
    }
