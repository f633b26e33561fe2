"""Immutable dataset snapshots: which examples a model was fitted on and which it was judged by.

The part an example falls into depends only on its source and on the set of words in it, so it never moves as data
grows, and texts that differ in word order or punctuation alone land on one side. Feedback is always learned in the end,
or a correction could be lost to evaluation; the part of it that the hash picks is withheld only from a first fit, which
shows whether feedback can be learned at all.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.durable import replace_file
from services.trainer.examples import FEEDBACK, TAXONOMY, Example
from services.trainer.text import normalise

HELD_OUT_PERCENT = 10
TRAIN, WITHHELD, HELD_OUT = "train", "withheld_feedback", "held_out"


@dataclass(frozen=True)
class DatasetSnapshot:
    """Examples split by what they are for, named by their content.

    Attributes:
        train: fitted on.
        withheld_feedback: judges a first fit, then fitted on.
        held_out: judges the model that serves; never fitted on.

    """

    id: str
    train: tuple[Example, ...]
    withheld_feedback: tuple[Example, ...]
    held_out: tuple[Example, ...]


def part_of(example: Example) -> str:
    """Return the part an example falls into; a taxonomy's descriptors are definitions, never evidence."""
    if example.source == TAXONOMY or not is_picked(example.text):
        return TRAIN
    return WITHHELD if example.source == FEEDBACK else HELD_OUT


def is_picked(text: str) -> bool:
    """Say whether the hash of a text's words picks it for judging."""
    words = " ".join(sorted(set(normalise(text).split())))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def split(examples: Sequence[Example], always_held_out: Sequence[Example]) -> DatasetSnapshot:
    """Split cleaned examples; examples kept for evaluation join the held-out part."""
    parts: dict[str, list[Example]] = {TRAIN: [], WITHHELD: [], HELD_OUT: []}
    for example in examples:
        parts[part_of(example)].append(example)
    parts[HELD_OUT].extend(always_held_out)
    name = hashlib.sha256(_content(parts)).hexdigest()[:16]
    return DatasetSnapshot(name, tuple(parts[TRAIN]), tuple(parts[WITHHELD]), tuple(parts[HELD_OUT]))


def write_snapshot(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write the snapshot as JSON lines, unless it is there already, and return its path.

    Raises:
        StorageFailed: the disk refused.

    """
    path = folder / f"{snapshot.id}.jsonl"
    if not path.exists():
        parts = {TRAIN: snapshot.train, WITHHELD: snapshot.withheld_feedback, HELD_OUT: snapshot.held_out}
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
