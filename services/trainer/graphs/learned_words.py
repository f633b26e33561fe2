"""The content words of all examples that the champion learned, read from its snapshot once for each champion."""

from collections.abc import Collection

from services.language.text import normalise
from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.dataset.words import content_words
from services.trainer.errors import ModelVersionNotFound, SnapshotNotFound
from services.trainer.registry.registry import ModelRegistry


class LearnedWords:
    """Remembers the words of the last champion it was asked about."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._version = 0
        self._words: frozenset[str] = frozenset()

    def now(self) -> Collection[str]:
        """Return the words of the present champion; none when it or its snapshot cannot be read."""
        alias = self._registry.champion()
        version = alias.version if alias else 0
        if version != self._version:
            self._version, self._words = version, self._read(version)
        return self._words

    def _read(self, version: int) -> frozenset[str]:
        try:
            snapshot = read_snapshot(self._registry.manifest(version).snapshot.id, self._registry.snapshots_folder)
        except (ModelVersionNotFound, SnapshotNotFound):
            return frozenset()
        return frozenset(word for each in snapshot.fitted_examples for word in content_words(normalise(each.text)))
