"""Immutable dataset snapshots: which examples a model was fitted on and which it was judged by.

The part an example falls into depends only on its source and on the set of words in it, so it never moves as data
grows, and texts that differ in word order or punctuation alone land on one side. What the hash picks judges a twin of
the model that has not seen it, of seeds and of feedback alike; the model that serves learns it too, so that neither a
correction nor a tenth of the data is lost to evaluation.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.durable import replace_file
from services.trainer.examples import FEEDBACK, TAXONOMY, Example
from services.trainer.text import digest_of_words, normalise

HELD_OUT_PERCENT = 10
TRAIN, WITHHELD_FEEDBACK, WITHHELD, RESERVED = "train", "withheld_feedback", "withheld", "reserved"


@dataclass(frozen=True)
class DatasetSnapshot:
    """Examples split by what they are for, named by their content.

    Attributes:
        train: always fitted on.
        withheld_feedback: feedback that judges the twin, and that the model that serves is fitted on.
        withheld: the same for other examples.
        reserved: examples kept for evaluation by whoever gave them; nothing is ever fitted on them.

    """

    id: str
    train: tuple[Example, ...]
    withheld_feedback: tuple[Example, ...]
    withheld: tuple[Example, ...]
    reserved: tuple[Example, ...]

    @property
    def learned(self) -> tuple[Example, ...]:
        """What the model that serves is fitted on."""
        return (*self.train, *self.withheld_feedback, *self.withheld)

    @property
    def judging(self) -> tuple[bool, ...]:
        """Which of those the twin is not fitted on."""
        return (False,) * len(self.train) + (True,) * (len(self.withheld_feedback) + len(self.withheld))

    @property
    def held_out(self) -> tuple[Example, ...]:
        """What challenger and champion are compared on."""
        return (*self.withheld, *self.reserved)


def part_of(example: Example) -> str:
    """Return the part an example falls into; a taxonomy's descriptors are definitions, never evidence."""
    if example.source == TAXONOMY or not is_picked(example.text):
        return TRAIN
    return WITHHELD_FEEDBACK if example.source == FEEDBACK else WITHHELD


def is_picked(text: str) -> bool:
    """Say whether the hash of a text's words picks it for judging."""
    return int.from_bytes(digest_of_words(normalise(text))[:4], "big") % 100 < HELD_OUT_PERCENT


def split(examples: Sequence[Example], reserved: Sequence[Example]) -> DatasetSnapshot:
    """Split cleaned examples; those kept for evaluation are a part of their own."""
    parts: dict[str, list[Example]] = {TRAIN: [], WITHHELD_FEEDBACK: [], WITHHELD: [], RESERVED: []}
    for example in examples:
        parts[part_of(example)].append(example)
    parts[RESERVED].extend(reserved)
    name = hashlib.sha256(_content(parts)).hexdigest()[:16]
    return DatasetSnapshot(
        name, tuple(parts[TRAIN]), tuple(parts[WITHHELD_FEEDBACK]), tuple(parts[WITHHELD]), tuple(parts[RESERVED])
    )


def write_snapshot(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write the snapshot as JSON lines, unless it is there already, and return its path.

    Raises:
        StorageFailed: the disk refused.

    """
    path = folder / f"{snapshot.id}.jsonl"
    if not path.exists():
        parts = {
            TRAIN: snapshot.train,
            WITHHELD_FEEDBACK: snapshot.withheld_feedback,
            WITHHELD: snapshot.withheld,
            RESERVED: snapshot.reserved,
        }
        replace_file(path, _content(parts))
    return path


def _content(parts: Mapping[str, Sequence[Example]]) -> bytes:
    lines = [
        json.dumps(
            {"text": example.text, "labels": example.labels, "part": part, "source": example.source},
            ensure_ascii=False,
        )
        for part, examples in parts.items()
        for example in examples
    ]
    return "".join(f"{line}\n" for line in lines).encode()
