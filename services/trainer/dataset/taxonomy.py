"""Reads a taxonomy: the labels that examples may carry, and the descriptors of each label as examples."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.dataset.files import read_examples
from services.trainer.errors import BrokenData

_log = structlog.get_logger()


@dataclass(frozen=True)
class TaxonomyLabels:
    """Label names in the order of the file, and each descriptor as one example of all labels that list it."""

    names: tuple[str, ...]
    descriptor_examples: tuple[Example, ...]


def load_taxonomy_labels(path: Path) -> TaxonomyLabels:
    """Read a taxonomy file.

    Raises:
        BrokenData: the file is missing or not a taxonomy.

    """
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["labels"]
        names = tuple(str(item["label"]) for item in items)
        labels_of: dict[str, list[str]] = defaultdict(list)
        for item in items:
            for descriptor in item.get("descriptors", ()):
                labels_of[str(descriptor)].append(str(item["label"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenData(f"cannot read the taxonomy {path}: {error!r}") from error
    if len(set(names)) != len(names):
        raise BrokenData(f"the taxonomy {path} names a label twice")
    examples = (Example(text, tuple(dict.fromkeys(labels)), TAXONOMY) for text, labels in labels_of.items())
    return TaxonomyLabels(names, tuple(examples))


class KnownLabels:
    """The labels that feedback may use now: the files are read again when one of them has changed.

    A file that cannot be read later on changes nothing: the labels that were read last stay known.
    """

    def __init__(self, find_files: Callable[[], tuple[Path | None, Sequence[Path]]]) -> None:
        """Read the labels of the taxonomy and the seed files that `find_files` names. Raises BrokenData."""
        self._find_files = find_files
        self._seen = self._state()
        self._labels = list_known_labels(*find_files())

    def now(self) -> tuple[str, ...]:
        """Return the labels, in the order of the files."""
        try:
            state = self._state()
            if state != self._seen:
                self._labels, self._seen = list_known_labels(*self._find_files()), state
        except (BrokenData, OSError) as error:
            _log.warning("feedback still uses the labels that were read before", problem=str(error))
        return self._labels

    def _state(self) -> tuple[tuple[Path, int], ...]:
        taxonomy, seed_files = self._find_files()
        files = (taxonomy,) if taxonomy is not None else seed_files
        return tuple((path, path.stat().st_mtime_ns) for path in files)


def list_known_labels(taxonomy: Path | None, seed_files: Sequence[Path]) -> tuple[str, ...]:
    """Return the labels that feedback may use: those of the taxonomy or, without one, those of the seed examples.

    Raises:
        BrokenData: a file cannot be read.

    """
    if taxonomy is not None:
        return load_taxonomy_labels(taxonomy).names
    examples, _ = read_examples(seed_files)
    return tuple(dict.fromkeys(label for example in examples for label in example.labels))
