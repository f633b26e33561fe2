"""Reads the taxonomy file: the labels with their descriptors and dishes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.inference.errors import BrokenData


@dataclass(frozen=True)
class LabelEntry:
    """One label. The keyword stage uses its descriptors, and the recommender its dishes."""

    label: str
    category: str
    definition: str
    descriptors: tuple[str, ...]
    dishes: tuple[str, ...]

    @property
    def plain_name(self) -> str:
        """The label without its category, in words: "temperature_warm" becomes "warm"."""
        return self.label.removeprefix(f"{self.category}_").replace("_", " ")


@dataclass(frozen=True)
class Taxonomy:
    """All labels.

    Attributes:
        entries: from the name of a label to its entry, in the order of the file.
        label_when_unknown: the label whose dishes are offered when no label was found.
        context_categories: from a field of the user context to the categories of labels that it is matched against.

    """

    entries: Mapping[str, LabelEntry]
    label_when_unknown: str
    context_categories: Mapping[str, tuple[str, ...]]

    def in_categories(self, categories: tuple[str, ...]) -> tuple[LabelEntry, ...]:
        """Return the entries of the labels in these categories."""
        return tuple(entry for entry in self.entries.values() if entry.category in categories)


NO_TAXONOMY = Taxonomy({}, "", {})


def load_taxonomy(path: Path | None) -> Taxonomy:
    """Return the taxonomy in a file; None gives a taxonomy without labels.

    Raises:
        BrokenData: the file is missing or is not a taxonomy.

    """
    if path is None:
        return NO_TAXONOMY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(_entry(item) for item in content["labels"])
        return Taxonomy(
            entries={entry.label: entry for entry in entries},
            label_when_unknown=str(content.get("label_when_unknown", "")),
            context_categories={
                field: tuple(categories) for field, categories in content.get("context_categories", {}).items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenData(f"cannot read the taxonomy {path}: {error!r}") from error


def _entry(item: Mapping[str, object]) -> LabelEntry:
    return LabelEntry(
        label=str(item["label"]),
        category=str(item.get("category", "")),
        definition=str(item.get("definition", "")),
        descriptors=_strings(item.get("descriptors")),
        dishes=_strings(item.get("dishes")),
    )


def _strings(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
