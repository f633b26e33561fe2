"""Immutable dataset snapshots: which examples a model was fitted on and which it was judged by.

The part an example falls into depends only on its source and on its content words, so it never moves as data grows,
and near-duplicates land on one side: texts that differ in word order, punctuation, function words or plurals alone.
Only what people say about answers is told apart by all its words: whether a word that they teach can be learned shows
on texts that share it with others. A snapshot's file is all that a run needs to be repeated.

What the hash picks judges a twin of the model that has not seen it, of seeds and of feedback alike; the model that
serves learns it too, so that neither a correction nor a tenth of the data is lost to evaluation.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.language.text import normalise
from services.trainer.dataset.examples import FROM_PEOPLE, TAXONOMY, Example
from services.trainer.dataset.words import digest_of_content, digest_of_words
from services.trainer.errors import SnapshotNotFound
from services.trainer.storage import read_lines, replace_file

HELD_OUT_PERCENT = 10
TRAIN, WITHHELD_FEEDBACK, WITHHELD, RESERVED = "train", "withheld_feedback", "withheld", "reserved"
GOLDEN = "golden"
PARTS = (TRAIN, WITHHELD_FEEDBACK, WITHHELD, RESERVED, GOLDEN)


@dataclass(frozen=True)
class DatasetSnapshot:
    """Examples split by what they are for, named by their content.

    Attributes:
        train: always fitted on.
        withheld_feedback: feedback that judges the twin, and that the model that serves is fitted on.
        withheld: the same for other examples.
        reserved: examples kept for evaluation by whoever gave them; nothing is ever fitted on them.
        golden: queries that must always be answered right; nothing is ever fitted on them.

    """

    id: str
    train: tuple[Example, ...]
    withheld_feedback: tuple[Example, ...]
    withheld: tuple[Example, ...]
    reserved: tuple[Example, ...]
    golden: tuple[Example, ...] = ()

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
    if example.source == TAXONOMY:
        return TRAIN
    if example.source in FROM_PEOPLE:
        return WITHHELD_FEEDBACK if _picks(digest_of_words(normalise(example.text))) else TRAIN
    return WITHHELD if is_picked(example.text) else TRAIN


def is_picked(text: str) -> bool:
    """Say whether the hash of a text's content words picks it for judging."""
    return _picks(digest_of_content(normalise(text)))


def _picks(digest: bytes) -> bool:
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def split(examples: Sequence[Example], reserved: Sequence[Example], golden: Sequence[Example] = ()) -> DatasetSnapshot:
    """Split cleaned examples; those kept for evaluation and the golden ones are parts of their own."""
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    for example in examples:
        parts[part_of(example)].append(example)
    parts[RESERVED].extend(reserved)
    parts[GOLDEN].extend(golden)
    return _named(parts)


def read_snapshot(name: str, folder: Path) -> DatasetSnapshot:
    """Return a snapshot that was written before.

    Raises:
        SnapshotNotFound: there is none of that name, or its content is not what its name says.

    """
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    if not name.isalnum():
        raise SnapshotNotFound(name, "a name has letters and digits only")
    try:
        for line in read_lines(folder / f"{name}.jsonl"):
            row = json.loads(line)
            parts[row["part"]].append(Example(row["text"], tuple(row["labels"]), row["source"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotNotFound(name, "its file is damaged") from error
    snapshot = _named(parts)
    if snapshot.id != name:
        raise SnapshotNotFound(name, "there is no such file, or its content was changed")
    return snapshot


def _named(parts: Mapping[str, Sequence[Example]]) -> DatasetSnapshot:
    name = hashlib.sha256(_content(parts)).hexdigest()[:16]
    return DatasetSnapshot(name, *(tuple(parts[part]) for part in PARTS))


def write_snapshot(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write the snapshot as JSON lines, unless it is there already and intact, and return its path.

    Raises:
        StorageFailed: the disk refused.

    """
    path = folder / f"{snapshot.id}.jsonl"
    content = _content(
        dict(
            zip(
                PARTS,
                (snapshot.train, snapshot.withheld_feedback, snapshot.withheld, snapshot.reserved, snapshot.golden),
                strict=True,
            )
        )
    )
    try:
        intact = path.read_bytes() == content
    except OSError:
        intact = False
    if not intact:
        replace_file(path, content)
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
