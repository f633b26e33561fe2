"""A version's files in the registry: what they are called, how they are written, and how they become a scorer again.

`model.onnx`, `explanation.onnx` and `head.onnx` serve. The judged ones are the same settings fitted without the
held-out examples: those of the champion are what the next challenger is compared with.
"""

import hashlib

from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.text import NORMALIZER, UNICODE_VERSION
from services.trainer.fitting.thresholds import Thresholds
from services.trainer.graphs.cascade import CascadeScorer
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.export import (
    HEAD_INPUT_NAME,
    INPUT_NAME,
    INPUT_TYPE,
    OUTPUT_NAME,
    OUTPUT_TYPE,
    SCORES_NAME,
    Graphs,
)
from services.trainer.registry.registry import ModelRegistry

LINEAR_FILE = "model.onnx"
EXPLANATION_FILE = "explanation.onnx"
HEAD_FILE = "head.onnx"
JUDGED_PREFIX = "judged_"


def serving_files(graphs: Graphs) -> dict[str, bytes]:
    """Return file name -> content of everything that serving reads beside the manifest."""
    files = {LINEAR_FILE: graphs.linear, EXPLANATION_FILE: graphs.explanation}
    return files if graphs.head is None else {**files, HEAD_FILE: graphs.head}


def judged_files(graphs: Graphs) -> dict[str, bytes]:
    """Return file name -> content of the graphs that were judged."""
    return {
        f"{JUDGED_PREFIX}{name}": content for name, content in serving_files(graphs).items() if name != EXPLANATION_FILE
    }


def describe(
    manifest: pb.Manifest, graphs: Graphs, labels: tuple[str, ...], thresholds: Thresholds, encoder: str, columns: int
) -> None:
    """Write into a manifest what the files are; `encoder` and its `columns` matter only with a head."""
    manifest.labels.extend(labels)
    manifest.normalizer, manifest.unicode_version = NORMALIZER, UNICODE_VERSION
    manifest.input.CopyFrom(pb.Tensor(name=INPUT_NAME, type=INPUT_TYPE, columns=1))
    manifest.output.CopyFrom(pb.Tensor(name=OUTPUT_NAME, type=OUTPUT_TYPE, columns=len(labels)))
    manifest.scores.CopyFrom(pb.Tensor(name=SCORES_NAME, type=OUTPUT_TYPE, columns=len(labels)))
    manifest.min_confidence = thresholds.alone
    for name, content in serving_files(graphs).items():
        manifest.files.add(path=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    if graphs.head is not None:
        manifest.head.CopyFrom(
            pb.Head(
                encoder=encoder,
                input=pb.Tensor(name=HEAD_INPUT_NAME, type=OUTPUT_TYPE, columns=columns + len(labels)),
                output=pb.Tensor(name=OUTPUT_NAME, type=OUTPUT_TYPE, columns=len(labels)),
                escalate_below_margin=thresholds.margin,
                escalate_below_score=thresholds.score,
                min_confidence=thresholds.transformer,
            )
        )


def open_version(
    registry: ModelRegistry, version: int, embeddings: EmbeddingStore | None, *, judged: bool
) -> tuple[CascadeScorer, int]:
    """Return a scorer of a version and the size of its graphs in bytes.

    Args:
        embeddings: for the transformer stage; a version that was trained with another encoder answers without it.
        judged: whether to open the graphs that were judged instead of those that serve.

    Raises:
        ModelVersionNotFound: no such version, or a file of it cannot be read.

    """
    manifest = registry.manifest(version)
    prefix = JUDGED_PREFIX if judged else ""
    has_head = manifest.HasField("head")
    graphs = Graphs(
        linear=registry.file(version, prefix + LINEAR_FILE),
        explanation=registry.file(version, EXPLANATION_FILE),
        head=registry.file(version, prefix + HEAD_FILE) if has_head else None,
    )
    head = manifest.head
    thresholds = Thresholds(
        manifest.min_confidence, head.escalate_below_margin, head.escalate_below_score, head.min_confidence
    )
    fits = embeddings is not None and has_head and embeddings.encoder.name == head.encoder
    return CascadeScorer(graphs, manifest.labels, thresholds, embeddings if fits else None), graphs.size_bytes
