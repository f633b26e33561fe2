"""Immutable dataset snapshots: which examples a model was fitted on and which it was judged by.

The part an example falls into depends only on the set of words in it, so it never moves as data grows, and texts that
differ in word order or punctuation alone land on one side.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.durable import replace_file
from services.trainer.examples import TAXONOMY, Example
from services.trainer.text import normalise

HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class DatasetSnapshot:
    """Examples split into a part for fitting and a part for evaluation, named by their content."""

    id: str
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


def is_held_out(example: Example) -> bool:
    """Say on which side of the split an example falls; a taxonomy's descriptors are definitions, never evidence."""
    if example.source == TAXONOMY:
        return False
    words = " ".join(sorted(set(normalise(example.text).split())))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def split(examples: Sequence[Example], always_held_out: Sequence[Example]) -> DatasetSnapshot:
    """Split cleaned examples; examples kept for evaluation join the held-out part."""
    train = tuple(example for example in examples if not is_held_out(example))
    held_out = (*(example for example in examples if is_held_out(example)), *always_held_out)
    name = hashlib.sha256(_content(train, held_out)).hexdigest()[:16]
    return DatasetSnapshot(name, train, held_out)


def write_snapshot(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write the snapshot as JSON lines, unless it is there already, and return its path.

    Raises:
        StorageFailed: the disk refused.

    """
    path = folder / f"{snapshot.id}.jsonl"
    if not path.exists():
        replace_file(path, _content(snapshot.train, snapshot.held_out))
    return path


def _content(train: Sequence[Example], held_out: Sequence[Example]) -> bytes:
    lines = [
        json.dumps(
            {"text": example.text, "labels": example.labels, "part": part, "source": example.source},
            ensure_ascii=False,
        )
        for part, examples in (("train", train), ("held_out", held_out))
        for example in examples
    ]
    return "".join(f"{line}\n" for line in lines).encode()
