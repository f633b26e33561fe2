import hashlib
import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import onnx.numpy_helper
import pytest

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.errors import ModelRejected, ModelVersionNotFound
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.language.encoder import Encoder, load_encoder
from services.repository.opening import open_repository
from tests.conftest import ENCODER
from tests.fakes import FakeClassifier
from tests.registries import MODEL


@lru_cache
def encoder() -> Encoder | None:
    return load_encoder(ENCODER)


def loader(models: Path, found: Encoder | None = None) -> Loader:
    keywords = Stage(StageKind.KEYWORD, FakeClassifier(()))
    return Loader(RegistryReader(open_repository("", models, MODEL), MODEL), keywords, 8, found or encoder())


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def accept_graph(folder: Path, graph: bytes, name: str = "model.onnx") -> None:
    """Put a graph in place with a manifest that agrees on size and checksum."""
    (folder / name).write_bytes(graph)

    def change(manifest: dict[str, Any]) -> None:
        (listed,) = (each for each in manifest["files"] if each["path"] == name)
        listed.update(sha256=hashlib.sha256(graph).hexdigest(), size_bytes=len(graph))

    edit_manifest(folder, change)


def truncate(folder: Path) -> None:
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    graph = bytearray((folder / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (folder / "model.onnx").write_bytes(graph)


def remove_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def replace_by_garbage(folder: Path) -> None:
    accept_graph(folder, b"this is no onnx graph")


def reorder_labels_of_the_manifest(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["labels"].reverse())


def drop_a_label_of_the_manifest(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["labels"].pop())


def repeat_a_label(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["labels"].__setitem__(0, manifest["labels"][1]))


def reversed_intercepts(folder: Path, name: str) -> None:
    """A graph with the right shape and labels that answers otherwise than at export."""
    graph = onnx.load_model_from_string((folder / name).read_bytes())
    for constant in graph.graph.initializer:
        if constant.name == "intercepts":
            values = onnx.numpy_helper.to_array(constant)[::-1] * 3
            constant.CopyFrom(onnx.numpy_helper.from_array(values.copy(), "intercepts"))
    accept_graph(folder, graph.SerializeToString(), name)


def reverse_the_linear_intercepts(folder: Path) -> None:
    reversed_intercepts(folder, "model.onnx")


def reverse_the_intercepts_of_the_head(folder: Path) -> None:
    reversed_intercepts(folder, "head.onnx")


def replace_the_head_by_garbage(folder: Path) -> None:
    accept_graph(folder, b"this is no onnx graph", "head.onnx")


def remove_the_head(folder: Path) -> None:
    (folder / "head.onnx").unlink()


def forget_the_head_among_the_files(folder: Path) -> None:
    edit_manifest(
        folder,
        lambda manifest: manifest.update(files=[each for each in manifest["files"] if each["path"] != "head.onnx"]),
    )


def widen_the_head(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["head"]["input"].update(columns=7))


def rename_the_input(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["input"].update(name="other"))


def other_normalizer(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(normalizer="something-else"))


def no_probes(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(probes=[]))


def manifest_of_another_version(folder: Path) -> None:
    shutil.copy(folder.parent / "2" / "manifest.json", folder / "manifest.json")


def half_a_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:200])


def file_outside_the_folder(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"][0].update(path="../2/model.onnx"))


@pytest.mark.parametrize(
    ("breakage", "check"),
    [
        (truncate, "size"),
        (flip_a_bit, "checksum"),
        (remove_graph, "files"),
        (replace_by_garbage, "graph"),
        (reorder_labels_of_the_manifest, "labels"),
        (drop_a_label_of_the_manifest, "labels"),
        (repeat_a_label, "labels"),
        (reverse_the_linear_intercepts, "probe"),
        (reverse_the_intercepts_of_the_head, "probe"),
        (replace_the_head_by_garbage, "graph"),
        (remove_the_head, "files"),
        (forget_the_head_among_the_files, "manifest"),
        (widen_the_head, "signature"),
        (rename_the_input, "signature"),
        (other_normalizer, "normalizer"),
        (no_probes, "probe"),
        (manifest_of_another_version, "identity"),
        (half_a_manifest, "manifest"),
        (file_outside_the_folder, "manifest"),
    ],
)
def test_damaged_version_is_rejected_by_the_check_that_names_the_damage(
    models: Path, breakage: Callable[[Path], None], check: str
) -> None:
    breakage(models / MODEL / "1")
    with pytest.raises(ModelRejected) as rejection:
        loader(models).load(1, 1)
    assert check == rejection.value.check


def test_intact_version_loads_and_answers(models: Path) -> None:
    servable = loader(models).load(1, 4)
    assert (servable.version, servable.generation, servable.label_count) == (1, 4, 8)
    (ranking,) = servable.stages[0].classifier.rank(["chocolate please"], 3, [])
    assert ranking.intents[0].label == "flavor_chocolate"


@pytest.mark.parametrize("version", [0, -1, 3, 99])
def test_version_that_does_not_exist_is_not_found(models: Path, version: int) -> None:
    with pytest.raises(ModelVersionNotFound):
        loader(models).load(version, 1)


def test_batches_answer_as_single_queries_do(models: Path) -> None:
    classifier = loader(models).load(1, 1).stages[0].classifier
    queries = ["rainy day", "", "chocolate " * 50, "🔥", "x", "hot soup please", "مرحبا"]
    assert classifier.rank(queries, 8, []) == [classifier.rank([query], 8, [])[0] for query in queries]


def test_transformer_answers_batches_as_single_queries(models: Path) -> None:
    linear, transformer, _ = (stage.classifier for stage in loader(models).load(1, 1).stages)
    queries = ["rainy day", "", "chocolate " * 500, "🔥", "x", "hot soup please", "مرحبا"]
    earlier = linear.rank(queries, 8, [])
    assert transformer.rank(queries, 8, earlier) == [
        transformer.rank([query], 8, [each])[0] for query, each in zip(queries, earlier, strict=True)
    ]


def test_version_of_another_encoder_is_served_without_the_transformer_stage(models: Path) -> None:
    found = encoder()
    assert found is not None
    other = Encoder("another-encoder", found.columns, found._tokenizer, found._session)
    servable = loader(models, other).load(1, 1)
    assert [stage.kind for stage in servable.stages] == [StageKind.LINEAR, StageKind.KEYWORD]
    assert "another-encoder" in servable.transformer_missing
    assert servable.stages[0].min_confidence > 0
