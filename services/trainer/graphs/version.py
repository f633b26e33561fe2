"""A version in the registry: its graphs as files, the cascade that they become again, and the words it was fitted to.

A version has the graphs of two models with the same settings. Those of the serving model answer queries. Those of the
evaluation model, fitted without the hold-out, are kept beside them: the next challenger is compared with them.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import EXPLANATION_FILE, HEAD_FILE, LINEAR_FILE
from services.language.text import NORMALIZER, UNICODE_VERSION, normalise
from services.trainer.dataset.snapshot import FITTED_PARTS, read_rows
from services.trainer.dataset.words import content_words
from services.trainer.errors import ModelVersionNotFound, SnapshotNotFound, StorageFailed
from services.trainer.registry.registry import ModelRegistry

# The server of the trainer asks this module for learned words only. Fitting and export take two seconds to import, so
# the functions that need them import them.
if TYPE_CHECKING:
    from collections.abc import Callable

    from services.trainer.fitting.thresholds import Thresholds
    from services.trainer.graphs.cascade import Cascade
    from services.trainer.graphs.embeddings import EmbeddingStore
    from services.trainer.graphs.export import Graphs

# Of the evaluation model's files. Versions on disk have it, so the value must stay.
EVALUATION_PREFIX = "judged_"
# How long to wait before a snapshot is read again that could not be read.
READ_AGAIN_SECONDS = 60.0


def serving_files(graphs: Graphs) -> dict[str, bytes]:
    """Return file name -> content of the serving model's graphs."""
    files = {LINEAR_FILE: graphs.linear, EXPLANATION_FILE: graphs.explanation}
    return files if graphs.head is None else {**files, HEAD_FILE: graphs.head}


def evaluation_files(graphs: Graphs) -> dict[str, bytes]:
    """Return file name -> content of the evaluation model's graphs."""
    files = (
        {LINEAR_FILE: graphs.linear} if graphs.head is None else {LINEAR_FILE: graphs.linear, HEAD_FILE: graphs.head}
    )
    return {f"{EVALUATION_PREFIX}{name}": content for name, content in files.items()}


def describe(
    manifest: pb.Manifest, graphs: Graphs, labels: tuple[str, ...], thresholds: Thresholds, encoder: str, columns: int
) -> None:
    """Describe the serving model in a manifest; the name of the encoder and its columns are used only with a head."""
    from services.trainer.graphs.export import (
        HEAD_INPUT_NAME,
        INPUT_NAME,
        INPUT_TYPE,
        OUTPUT_NAME,
        OUTPUT_TYPE,
        SCORES_NAME,
    )

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


def open_serving_model(registry: ModelRegistry, version: int, embeddings: EmbeddingStore | None) -> tuple[Cascade, int]:
    """Return the cascade of a version's serving model and the size of its graphs in bytes.

    Args:
        registry: holds the version.
        version: its number.
        embeddings: for the transformer stage; a version that was fitted with another encoder answers without it.

    Raises:
        ModelVersionNotFound: there is no such version, or a file of it cannot be read.

    """
    return _open_model(registry, version, embeddings, "")


def open_evaluation_model(
    registry: ModelRegistry, version: int, embeddings: EmbeddingStore | None
) -> tuple[Cascade, int]:
    """Do what `open_serving_model` does for the version's evaluation model."""
    return _open_model(registry, version, embeddings, EVALUATION_PREFIX)


def _open_model(
    registry: ModelRegistry, version: int, embeddings: EmbeddingStore | None, prefix: str
) -> tuple[Cascade, int]:
    from services.trainer.fitting.thresholds import Thresholds
    from services.trainer.graphs.cascade import Cascade
    from services.trainer.graphs.export import Graphs

    manifest = registry.versions.manifest(version)
    has_head = manifest.HasField("head")
    graphs = Graphs(
        linear=registry.versions.file(version, prefix + LINEAR_FILE),
        explanation=registry.versions.file(version, EXPLANATION_FILE),
        head=registry.versions.file(version, prefix + HEAD_FILE) if has_head else None,
    )
    head = manifest.head
    thresholds = Thresholds(
        manifest.min_confidence, head.escalate_below_margin, head.escalate_below_score, head.min_confidence
    )
    fits = embeddings is not None and has_head and embeddings.encoder.name == head.encoder
    return Cascade(graphs, manifest.labels, thresholds, embeddings if fits else None), graphs.size_bytes


class LearnedWords:
    """The content words of all examples that the champion was fitted to.

    Every batch of queries needs them, also while the repository is away. So the snapshot is read once for a champion,
    and which version that is comes from the history. Threads may share it.
    """

    def __init__(self, registry: ModelRegistry, now: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._now = now
        self._version = 0
        self._words = frozenset[str]()
        self._read_again_at = 0.0

    def read(self) -> frozenset[str]:
        """Return the words; none when there is no champion, or for as long as its snapshot cannot be read.

        Raises:
            StorageFailed: the database cannot be read.

        """
        last = self._registry.history.last_change()
        version = last.to_version if last else 0
        if version != self._version or (not self._words and self._now() >= self._read_again_at):
            self._read_again_at = self._now() + READ_AGAIN_SECONDS
            self._words = self._read_words(version) if version else frozenset()
            self._version = version
        return self._words

    def _read_words(self, version: int) -> frozenset[str]:
        try:
            snapshot_id = self._registry.versions.manifest(version).snapshot.id
            return frozenset(
                word
                for part, example in read_rows(snapshot_id, self._registry.repository)
                if part in FITTED_PARTS
                for word in content_words(normalise(example.text))
            )
        except (ModelVersionNotFound, SnapshotNotFound, StorageFailed):
            return frozenset()
