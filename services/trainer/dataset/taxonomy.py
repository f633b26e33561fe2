"""Reads a taxonomy: the labels that examples may carry, and the descriptors of each label as examples."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.dataset.files import read_examples
from services.trainer.errors import BrokenData


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


def list_known_labels(taxonomy: Path | None, seed_files: Sequence[Path]) -> tuple[str, ...]:
    """Return the labels that feedback may use: those of the taxonomy or, without one, those of the seed examples.

    Raises:
        BrokenData: a file cannot be read.

    """
    if taxonomy is not None:
        return load_taxonomy_labels(taxonomy).names
    examples, _ = read_examples(seed_files)
    return tuple(dict.fromkeys(label for example in examples for label in example.labels))
