"""Builds a servable beside the serving one: verify, open, warm up. Any failed check raises ModelRejected."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import onnxruntime
from moodfood.registry.v1.manifest_pb2 import Manifest

from services.inference.cascade import Stage, StageKind
from services.inference.errors import ModelRejected
from services.inference.linear import LinearClassifier, open_session
from services.inference.repository import ModelRepository
from services.inference.servable import Servable
from services.inference.text import NORMALIZER

PROBE_TOLERANCE = 1e-4
LABELS_METADATA = "labels"


class Loader:
    """Turns versions of the repository into servables."""

    def __init__(self, repository: ModelRepository, keyword_stage: Stage, taxonomy_labels: int) -> None:
        self._repository = repository
        self._keyword_stage = keyword_stage
        self._taxonomy_labels = taxonomy_labels

    def without_model(self) -> Servable:
        """Return the servable that answers by keywords until a first model is there."""
        return Servable(0, 0, (self._keyword_stage,), self._taxonomy_labels, 0.0, None)

    def load(self, version: int, generation: int) -> Servable:
        """Read, verify and warm one version. Takes tens of milliseconds; call it off the event loop.

        Raises:
            ModelVersionNotFound: no such version.
            ModelRejected: a check failed; its name is in the error.

        """
        manifest, graph = self._repository.read(version)
        check_manifest(manifest)
        classifier = verified_classifier(manifest, graph)
        check_probes(manifest, classifier)
        linear = Stage(StageKind.LINEAR, classifier, manifest.min_confidence)
        return Servable(
            version=version,
            generation=generation,
            stages=(linear, self._keyword_stage),
            label_count=len(manifest.labels),
            min_confidence=manifest.min_confidence,
            loaded_at=datetime.now(UTC),
        )


def with_generation(servable: Servable, generation: int) -> Servable:
    """Return the servable under a newer generation of the alias."""
    return replace(servable, generation=max(servable.generation, generation))


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that this service cannot serve by."""
    if manifest.normalizer != NORMALIZER:
        raise ModelRejected(
            manifest.version, "normalizer", f"it needs {manifest.normalizer!r}, this service has {NORMALIZER!r}"
        )
    if len(set(manifest.labels)) != len(manifest.labels) or len(manifest.labels) < 2:
        raise ModelRejected(manifest.version, "labels", "the manifest's labels are fewer than two or repeated")
    if not manifest.probes:
        raise ModelRejected(manifest.version, "probe", "the manifest records no probe")


def verified_classifier(manifest: Manifest, graph: bytes) -> LinearClassifier:
    """Open the graph and compare signature and labels with the manifest."""
    try:
        session = open_session(graph)
    except Exception as error:
        raise ModelRejected(manifest.version, "graph", "ONNX Runtime cannot open it") from error
    inputs = [(node.name, node.type) for node in session.get_inputs()]
    if inputs != [(manifest.input.name, manifest.input.type)]:
        raise ModelRejected(manifest.version, "signature", f"its inputs are {inputs}")
    outputs = {node.name: (node.type, node.shape) for node in session.get_outputs()}
    output_type, shape = outputs.get(manifest.output.name, ("none", []))
    if output_type != manifest.output.type or shape[-1:] != [manifest.output.columns]:
        raise ModelRejected(manifest.version, "signature", f"output {manifest.output.name!r} is {output_type} {shape}")
    if manifest.output.columns != len(manifest.labels) or graph_labels(session) != list(manifest.labels):
        raise ModelRejected(manifest.version, "labels", "the graph's labels are not the manifest's")
    return LinearClassifier(session, manifest.input.name, manifest.output.name, tuple(manifest.labels))


def graph_labels(session: onnxruntime.InferenceSession) -> list[str]:
    """Return the labels that the trainer wrote into the graph's metadata; empty if there are none."""
    try:
        labels = json.loads(session.get_modelmeta().custom_metadata_map.get(LABELS_METADATA, "[]"))
    except ValueError:
        return []
    return [str(label) for label in labels] if isinstance(labels, list) else []


def check_probes(manifest: Manifest, classifier: LinearClassifier) -> None:
    """Warm the classifier up on the manifest's probes and compare with the answers recorded at export."""
    try:
        rankings = classifier.rank([probe.text for probe in manifest.probes], 1)
    except Exception as error:
        raise ModelRejected(manifest.version, "probe", "the graph fails on a probe query") from error
    for probe, ranking in zip(manifest.probes, rankings, strict=True):
        best = ranking.intents[0] if ranking.intents else None
        if best is None or best.label != probe.label or abs(best.confidence - probe.confidence) > PROBE_TOLERANCE:
            raise ModelRejected(manifest.version, "probe", f"{probe.text!r} is not answered as it was at export")
