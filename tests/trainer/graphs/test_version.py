import json
from pathlib import Path

import onnx
import pytest
from moodfood.registry.v1 import manifest_pb2

from services.language.names import MANIFEST_FILE
from services.trainer.dataset.examples import Example
from services.trainer.dataset.snapshot import FOLDER, split, write_snapshot
from services.trainer.errors import ModelVersionNotFound
from services.trainer.fitting.fit import FittedModels, fit
from services.trainer.graphs.export import export_graphs
from services.trainer.graphs.version import (
    READ_AGAIN_SECONDS,
    LearnedWords,
    describe,
    evaluation_files,
    open_evaluation_model,
    open_serving_model,
    serving_files,
)
from services.trainer.registry.registry import ModelRegistry
from services.trainer.storage import to_json
from tests.object_store import ObjectStore
from tests.registries import MODEL, database_beside, open_registry, promote

EXAMPLES = [Example(f"{noun} number {n}", (noun,)) for n in range(40) for noun in ("soup", "cake")]
TAUGHT = [Example(f"glorpy {n}", ("cake",)) for n in range(10)]


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return open_registry(tmp_path)


@pytest.fixture(scope="module")
def models() -> FittedModels:
    return fit([*EXAMPLES, *TAUGHT], [False] * len(EXAMPLES) + [True] * len(TAUGHT), None)


def register(registry: ModelRegistry, models: FittedModels) -> int:
    serving, manifest = export_graphs(models.serving), manifest_pb2.Manifest()
    describe(manifest, serving, models.serving.labels, models.serving.thresholds, "", 0)
    files = {**serving_files(serving), **evaluation_files(export_graphs(models.evaluation))}
    return registry.versions.register(lambda _version: {**files, MANIFEST_FILE: to_json(manifest).encode()})


def register_snapshot(registry: ModelRegistry, *texts: str) -> int:
    """Register a version that was fitted to some texts, and has no graphs."""
    snapshot = split([Example(text, ("a",)) for text in texts], [])
    write_snapshot(snapshot, registry.repository)
    manifest = manifest_pb2.Manifest(snapshot=manifest_pb2.Snapshot(id=snapshot.id))
    return registry.versions.register(lambda _version: {MANIFEST_FILE: to_json(manifest).encode()})


def test_files_have_the_names_that_inference_and_versions_on_disk_have(
    registry: ModelRegistry, models: FittedModels
) -> None:
    folder = registry.folder / str(register(registry, models))
    expected = {"manifest.json", "model.onnx", "explanation.onnx", "judged_model.onnx"}
    assert expected == {path.name for path in folder.iterdir()}


def test_serving_and_evaluation_model_are_opened_with_the_thresholds_and_labels_of_the_version(
    registry: ModelRegistry, models: FittedModels
) -> None:
    version = register(registry, models)
    serving, size = open_serving_model(registry, version, None)
    evaluation, _ = open_evaluation_model(registry, version, None)
    assert models.serving.labels == serving.labels == evaluation.labels
    assert models.serving.thresholds.alone == pytest.approx(serving.thresholds.alone)
    assert serving.thresholds == evaluation.thresholds
    manifest = registry.versions.manifest(version)
    assert sum(file.size_bytes for file in manifest.files) == size
    text, cake = ["glorpy"], models.serving.labels.index("cake")
    assert serving.answer(text).probabilities[0, cake] > evaluation.answer(text).probabilities[0, cake] + 0.1


def test_version_without_a_file_of_it_cannot_be_opened(registry: ModelRegistry, models: FittedModels) -> None:
    version = register(registry, models)
    (registry.folder / str(version) / "judged_model.onnx").unlink()
    open_serving_model(registry, version, None)
    with pytest.raises(ModelVersionNotFound):
        open_evaluation_model(registry, version, None)


def test_labels_travel_in_the_metadata_of_a_graph(models: FittedModels) -> None:
    graph = onnx.load_from_string(export_graphs(models.serving).linear)
    (entry,) = [entry for entry in graph.metadata_props if entry.key == "labels"]
    assert list(models.serving.labels) == json.loads(entry.value)


def test_learned_words_are_the_content_words_of_the_champions_examples(registry: ModelRegistry) -> None:
    learned = LearnedWords(registry)
    assert learned.read() == frozenset()
    first = register_snapshot(registry, "the warm soups", "Cake!")
    second = register_snapshot(registry, "tea")
    assert learned.read() == frozenset()
    promote(registry, first)
    assert {"warm", "soup", "cake"} == learned.read()
    promote(registry, second)
    assert {"tea"} == learned.read()


def test_no_words_are_learned_while_the_snapshot_cannot_be_read_and_it_is_read_again_later(
    registry: ModelRegistry,
) -> None:
    promote(registry, register_snapshot(registry, "some unusual pancakes"))
    (path,) = (registry.folder / FOLDER).iterdir()
    content, now = path.read_bytes(), [0.0]
    learned = LearnedWords(registry, lambda: now[0])
    path.unlink()
    assert learned.read() == frozenset()
    path.write_bytes(content)
    assert learned.read() == frozenset()
    now[0] = READ_AGAIN_SECONDS
    assert {"unusual", "pancake"} <= learned.read()
    path.unlink()
    now[0] *= 2
    assert {"unusual", "pancake"} <= learned.read()


def test_words_that_were_read_are_there_while_the_bucket_is_away(store: ObjectStore, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, MODEL, 10, database_beside(tmp_path), store.make_bucket())
    promote(registry, register_snapshot(registry, "some unusual pancakes"))
    learned = LearnedWords(registry)
    assert {"unusual", "pancake"} <= learned.read()
    store.refuse = 10**9
    assert {"unusual", "pancake"} <= learned.read()
    assert store.refuse == 10**9
