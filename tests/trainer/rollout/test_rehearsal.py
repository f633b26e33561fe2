import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from moodfood.registry.v1.manifest_pb2 import Manifest, RuleResult
from onnx import TensorProto, helper

from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout import rehearsal
from services.trainer.rollout.rehearsal import MEBIBYTE, RehearsalSetup, rehearse
from services.trainer.storage import to_json
from tests.conftest import ENCODER
from tests.registries import MODEL

pytestmark = pytest.mark.anyio

RULES = ["rehearsal_loads", "rehearsal_answers", "rehearsal_time", "rehearsal_memory"]


def make_setup(
    models: Path, data: Path, memory_mib: int = 1024, command: Sequence[str] = rehearsal.SERVE
) -> RehearsalSetup:
    environment = {
        "MOODFOOD_MODELS_DIR": str(models),
        "MOODFOOD_DATA_DIR": str(data),
        "MOODFOOD_MODEL": MODEL,
        "MOODFOOD_ENCODER_DIR": str(ENCODER),
    }
    return RehearsalSetup(environment, memory_mib * MEBIBYTE, command)


def failed(rules: Sequence[RuleResult]) -> dict[str, str]:
    return {rule.rule: rule.detail for rule in rules if not rule.passed}


def inference_processes() -> list[str]:
    """Command lines of the inference processes that this one has started and not ended."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline").read_bytes().decode() for child in children]
    return [line for line in lines if "inference" in line]


def rewritten(registry: ModelRegistry, version: int, graph: bytes) -> Manifest:
    """Put another graph into a version, as if the trainer had exported it."""
    manifest = registry.versions.manifest(version)
    for listed in manifest.files:
        if listed.path == "model.onnx":
            listed.sha256, listed.size_bytes = hashlib.sha256(graph).hexdigest(), len(graph)
    folder = registry.folder / str(version)
    (folder / "model.onnx").write_bytes(graph)
    (folder / "manifest.json").write_text(to_json(manifest))
    return manifest


def burdened(registry: ModelRegistry, version: int, side: int) -> Manifest:
    """Make each run of a version's graph multiply two matrices of that side, made anew from the size of its input."""
    model = onnx.load(str(registry.folder / str(version) / "model.onnx"))
    graph, manifest = model.graph, registry.versions.manifest(version)
    name = manifest.output.name
    for node in graph.node:
        node.output[:] = [f"{name}_before" if output == name else output for output in node.output]
        node.input[:] = [f"{name}_before" if given == name else given for given in node.input]
    graph.initializer.extend(
        [
            helper.make_tensor("burden_side", TensorProto.INT64, [2], [side, side]),
            helper.make_tensor("burden_axes", TensorProto.INT64, [1], [0]),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Shape", [graph.input[0].name], ["burden_shape"]),
            helper.make_node("ReduceMin", ["burden_shape"], ["burden_one"], keepdims=1),
            helper.make_node("Mul", ["burden_side", "burden_one"], ["burden_sides"]),
            helper.make_node("ConstantOfShape", ["burden_sides"], ["burden"]),
            helper.make_node("MatMul", ["burden", "burden"], ["burden_product"]),
            helper.make_node("ReduceMax", ["burden_product"], ["burden_most"], keepdims=0),
            helper.make_node("Add", [f"{name}_before", "burden_most"], [name]),
        ]
    )
    return rewritten(registry, version, model.SerializeToString())


async def test_version_that_serves_as_recorded_passes_every_rule(registry: ModelRegistry, small_data: Path) -> None:
    manifest = registry.versions.manifest(2)
    rules = await rehearse(make_setup(registry.folder.parent, small_data), manifest)
    assert (failed(rules), [rule.rule for rule in rules]) == ({}, RULES)
    assert len(manifest.answers) >= 50
    assert inference_processes() == []
    assert not (small_data / "logs").exists()


async def test_damaged_version_is_refused_by_the_name_of_the_check(registry: ModelRegistry, small_data: Path) -> None:
    (registry.folder / "2" / "head.onnx").write_bytes(b"")
    rules = await rehearse(make_setup(registry.folder.parent, small_data), registry.versions.manifest(2))
    assert "size check" in failed(rules)["rehearsal_loads"]


async def test_version_that_answers_otherwise_than_recorded_is_refused(
    registry: ModelRegistry, small_data: Path
) -> None:
    manifest = registry.versions.manifest(2)
    manifest.answers[0].label = "something_else"
    rules = await rehearse(make_setup(registry.folder.parent, small_data), manifest)
    assert list(failed(rules)) == ["rehearsal_answers"]
    assert failed(rules)["rehearsal_answers"].startswith(f"1 of {len(manifest.answers)} answers differ")


async def test_slow_version_is_refused(registry: ModelRegistry, small_data: Path) -> None:
    manifest = burdened(registry, 2, side=2500)
    del manifest.answers[5:]
    rules = await rehearse(make_setup(registry.folder.parent, small_data), manifest)
    assert list(failed(rules)) == ["rehearsal_time"], failed(rules)


async def test_huge_version_is_refused_and_takes_no_more_than_the_limit(
    registry: ModelRegistry, small_data: Path
) -> None:
    manifest = burdened(registry, 2, side=20_000)
    rules = await rehearse(make_setup(registry.folder.parent, small_data), manifest)
    assert list(failed(rules)) == ["rehearsal_loads"]


@pytest.mark.parametrize(
    ("how", "when", "rule", "said"),
    [
        ("crash", "load", "rehearsal_loads", "crashed with status -6 while loading"),
        ("crash", "query", "rehearsal_answers", "crashed with status -6 while answering"),
        ("hang", "load", "rehearsal_loads", "did not answer in time while loading"),
        ("hang", "query", "rehearsal_answers", "did not answer in time while answering"),
    ],
)
async def test_version_that_crashes_or_hangs_the_server_is_refused_and_leaves_no_process(
    registry: ModelRegistry,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    when: str,
    rule: str,
    said: str,
) -> None:
    monkeypatch.setattr(rehearsal, "LOAD_SECONDS", 0.5)
    monkeypatch.setattr(rehearsal, "QUERY_SECONDS", 0.5)
    command = (sys.executable, "-m", "tests.misbehaving_inference", how, when)
    rules = await rehearse(
        make_setup(registry.folder.parent, small_data, command=command), registry.versions.manifest(2)
    )
    assert said in failed(rules)[rule]
    assert inference_processes() == []


async def test_process_that_ends_before_it_serves_is_reported(registry: ModelRegistry, small_data: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    rules = await rehearse(
        make_setup(registry.folder.parent, small_data, command=command), registry.versions.manifest(2)
    )
    assert "ended with status 3" in failed(rules)["rehearsal_loads"]


async def test_cancelled_rehearsal_leaves_no_process(registry: ModelRegistry, small_data: Path) -> None:
    going_on = asyncio.create_task(
        rehearse(make_setup(registry.folder.parent, small_data), registry.versions.manifest(2))
    )
    while not inference_processes():
        await asyncio.sleep(0.01)
    going_on.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going_on
    assert inference_processes() == []
