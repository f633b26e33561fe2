"""Loads a version into a servable: verifies its files, opens its graphs, and warms them up with the probes.

A check that fails raises ModelRejected, which names the check.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import onnxruntime
import structlog
from moodfood.registry.v1.manifest_pb2 import Head, Manifest, Probe, Tensor

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.classifiers.explanation import Explainer
from services.inference.classifiers.linear import LinearClassifier
from services.inference.classifiers.ranking import Ranking
from services.inference.classifiers.transformer import TransformerClassifier
from services.inference.errors import ModelRejected
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.language.encoder import Encoder
from services.language.names import EXPLANATION_FILE, HEAD_FILE, LABELS_METADATA, LINEAR_FILE
from services.language.session import open_session
from services.language.text import NORMALIZER, UNICODE_VERSION

PROBE_TOLERANCE = 1e-4
# Processors round the 8-bit products of an encoder differently, so the head's probabilities differ a little.
HEAD_PROBE_TOLERANCE = 0.05
NO_ENCODER = "no encoder is installed"

_log = structlog.get_logger()


class Loader:
    """Loads versions of the registry. It has no state of its own, so threads may share it."""

    def __init__(
        self, registry: RegistryReader, keyword_stage: Stage, taxonomy_labels: int, encoder: Encoder | None
    ) -> None:
        self._registry = registry
        self._keyword_stage = keyword_stage
        self._taxonomy_labels = taxonomy_labels
        self._encoder = encoder

    def without_model(self) -> Servable:
        """Return the servable without a model, which answers with the keyword stage only."""
        return Servable(0, 0, (self._keyword_stage,), self._taxonomy_labels, 0.0, None)

    def load(self, version: int, generation: int) -> Servable:
        """Read, verify and warm up one version. It takes tens of milliseconds, so call it off the event loop.

        Raises:
            ModelVersionNotFound: the registry has no such version.
            ModelRejected: a check failed.

        """
        manifest, files = self._registry.read(version)
        check_manifest(manifest)
        classifier = open_linear(manifest, files[LINEAR_FILE])
        rankings = check_probes(version, manifest.probes, classifier, None, PROBE_TOLERANCE)
        missing = self._transformer_missing(manifest)
        stages = self._model_stages(manifest, files, classifier, rankings, missing)
        return Servable(
            version=version,
            generation=generation,
            stages=(*stages, self._keyword_stage),
            label_count=len(manifest.labels),
            min_confidence=stages[-1].min_confidence,
            loaded_at=datetime.now(UTC),
            explainer=Explainer(
                files[LINEAR_FILE],
                files[EXPLANATION_FILE],
                manifest.input.name,
                manifest.scores.name,
                tuple(manifest.labels),
            ),
            transformer_missing=missing,
        )

    def _transformer_missing(self, manifest: Manifest) -> str:
        if not manifest.HasField("head"):
            return ""
        if self._encoder is None:
            return NO_ENCODER
        if self._encoder.name != manifest.head.encoder:
            return f"the version needs the encoder {manifest.head.encoder!r}, but {self._encoder.name!r} is installed"
        return ""

    def _model_stages(
        self,
        manifest: Manifest,
        files: dict[str, bytes],
        linear: LinearClassifier,
        rankings: Sequence[Ranking],
        missing: str,
    ) -> tuple[Stage, ...]:
        encoder = self._encoder
        if not manifest.HasField("head") or encoder is None or missing:
            return (Stage(StageKind.LINEAR, linear, min_confidence=manifest.min_confidence),)
        head = manifest.head
        transformer = open_transformer(manifest, head, files[HEAD_FILE], encoder)
        check_probes(manifest.version, head.probes, transformer, rankings, HEAD_PROBE_TOLERANCE)
        return (
            Stage(
                StageKind.LINEAR,
                linear,
                min_margin=head.escalate_below_margin,
                min_score=head.escalate_below_score,
            ),
            Stage(StageKind.TRANSFORMER, transformer, min_confidence=head.min_confidence, takes_milliseconds=True),
        )


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that this service cannot serve. Raises ModelRejected."""
    if manifest.normalizer != NORMALIZER:
        raise ModelRejected(
            manifest.version, "normalizer", f"it needs {manifest.normalizer!r}, but this service has {NORMALIZER!r}"
        )
    if manifest.unicode_version not in {"", UNICODE_VERSION}:
        # A few rare characters may be normalised differently than in training. The probes still check the answers.
        _log.warning(
            "the version was trained with another version of the Unicode data",
            version=manifest.version,
            trained_with=manifest.unicode_version,
            serving_with=UNICODE_VERSION,
        )
    if len(set(manifest.labels)) != len(manifest.labels) or len(manifest.labels) < 2:
        raise ModelRejected(
            manifest.version, "labels", "the manifest has fewer than two labels, or names a label twice"
        )
    if not manifest.probes:
        raise ModelRejected(manifest.version, "probe", "the manifest has no probes")


def open_linear(manifest: Manifest, graph: bytes) -> LinearClassifier:
    """Open the linear graph, and check its signature and its labels against the manifest. Raises ModelRejected."""
    session = open_verified(manifest, graph, manifest.input, (manifest.output, manifest.scores))
    return LinearClassifier(
        session, manifest.input.name, manifest.output.name, manifest.scores.name, tuple(manifest.labels)
    )


def open_transformer(manifest: Manifest, head: Head, graph: bytes, encoder: Encoder) -> TransformerClassifier:
    """Open the head's graph, and check it against the manifest and the encoder. Raises ModelRejected."""
    session = open_verified(manifest, graph, head.input, (head.output,))
    if head.input.columns != encoder.columns + len(manifest.labels):
        raise ModelRejected(
            manifest.version,
            "signature",
            f"its head takes {head.input.columns} columns, not {encoder.columns} + {len(manifest.labels)}",
        )
    return TransformerClassifier(encoder, session, head.input.name, head.output.name, tuple(manifest.labels))


def open_verified(
    manifest: Manifest, graph: bytes, wanted_input: Tensor, wanted_outputs: Iterable[Tensor]
) -> onnxruntime.InferenceSession:
    """Open a graph of the version, and check its signature and its labels against the manifest.

    Raises:
        ModelRejected: the graph cannot be opened or differs from the manifest.

    """
    try:
        session = open_session(graph)
    except Exception as error:
        raise ModelRejected(manifest.version, "graph", "ONNX Runtime cannot open it") from error
    inputs = [(node.name, node.type, node.shape[-1]) for node in session.get_inputs()]
    if inputs != [(wanted_input.name, wanted_input.type, wanted_input.columns)]:
        raise ModelRejected(manifest.version, "signature", f"its inputs are {inputs}")
    outputs = {node.name: (node.type, node.shape) for node in session.get_outputs()}
    for wanted in wanted_outputs:
        output_type, shape = outputs.get(wanted.name, ("none", []))
        if output_type != wanted.type or shape[-1:] != [wanted.columns]:
            raise ModelRejected(manifest.version, "signature", f"output {wanted.name!r} is {output_type} {shape}")
        if wanted.columns != len(manifest.labels):
            raise ModelRejected(manifest.version, "labels", f"output {wanted.name!r} has {wanted.columns} columns")
    if read_labels(session) != list(manifest.labels):
        raise ModelRejected(manifest.version, "labels", "the labels of the graph differ from those of the manifest")
    return session


def read_labels(session: onnxruntime.InferenceSession) -> list[str]:
    """Return the labels in the metadata of a graph, in the order of its columns; empty if there are none."""
    try:
        labels = json.loads(session.get_modelmeta().custom_metadata_map.get(LABELS_METADATA, "[]"))
    except ValueError:
        return []
    return [str(label) for label in labels] if isinstance(labels, list) else []


def check_probes(
    version: int,
    probes: Sequence[Probe],
    classifier: LinearClassifier | TransformerClassifier,
    earlier: Sequence[Ranking] | None,
    tolerance: float,
) -> list[Ranking]:
    """Answer the probes, which warms the classifier up, and compare with the answers recorded at export.

    Args:
        version: the version that the classifier belongs to.
        probes: queries with their recorded answers.
        classifier: the classifier to check.
        earlier: rankings of the same probes by the stage before; None for the first stage.
        tolerance: largest allowed difference of a probability.

    Returns:
        One ranking for each probe.

    Raises:
        ModelRejected: an answer differs, or the classifier fails.

    """
    try:
        rankings = classifier.rank([probe.text for probe in probes], 1, earlier or [])
    except Exception as error:
        raise ModelRejected(version, "probe", "the graph fails on a probe") from error
    for probe, ranking in zip(probes, rankings, strict=True):
        best = ranking.intents[0] if ranking.intents else None
        if best is None or best.label != probe.label or abs(best.confidence - probe.confidence) > tolerance:
            raise ModelRejected(version, "probe", f"the answer to {probe.text!r} differs from the one at export")
    return rankings
