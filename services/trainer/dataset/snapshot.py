"""Dataset snapshots: the examples of one training run, split into the parts that fit and evaluate its models.

A hash selects 10 % of the examples as a hold-out. A run fits two models with the same settings: the evaluation model
without the hold-out, to measure it there; and the serving model with the hold-out, so that no example is lost. Test
examples and golden queries are given as such, and no model is ever fitted to them.

The hash is taken of an example's content words only, so an example never changes its part as the data grows, and near
duplicates fall into the same part: texts that differ only in word order, punctuation, function words or plurals.
Feedback is hashed by all of its words instead: near duplicates on both sides then show whether a new word is learned.

A snapshot's file is immutable, holds all that is needed to repeat the run, and is named by the SHA-256 of its rows. The
hash is taken of the rows as JSON lines, the form that the files of earlier releases have. So a snapshot keeps its name
in every form and with every release of the library that writes it. The files are in the repository beside the versions,
so every trainer has them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from services.language.text import normalise
from services.repository.repository import Repository
from services.trainer.dataset.examples import FROM_PEOPLE, TAXONOMY, Example
from services.trainer.dataset.words import digest_of_content, digest_of_words
from services.trainer.errors import SnapshotNotFound
from services.trainer.storage import repository_errors

HOLDOUT_PERCENT = 10
# How the parts are called in the files. A snapshot's name is the hash of its rows, so these values must stay.
TRAIN, FEEDBACK_HOLDOUT, HOLDOUT, TEST, GOLDEN = "train", "withheld_feedback", "withheld", "reserved", "golden"
PARTS = (TRAIN, FEEDBACK_HOLDOUT, HOLDOUT, TEST, GOLDEN)
FITTED_PARTS = (TRAIN, FEEDBACK_HOLDOUT, HOLDOUT)
# The folder of the files in the repository. Earlier releases wrote JSON lines.
FOLDER = "snapshots"
SUFFIX, FORMER_SUFFIX = ".parquet", ".jsonl"


@dataclass(frozen=True)
class DatasetSnapshot:
    """The examples of a run, split into parts.

    Attributes:
        id: the first 16 hexadecimal digits of the SHA-256 of the snapshot's rows.
        train: both models are fitted to these.
        feedback_holdout: the part of the feedback that the hash selects; it has a rule of its own in the gate.
        holdout: the part of all other examples that the hash selects.
        test: examples that were given for evaluation only.
        golden: queries that must always be answered right.

    """

    id: str
    train: tuple[Example, ...]
    feedback_holdout: tuple[Example, ...]
    holdout: tuple[Example, ...]
    test: tuple[Example, ...]
    golden: tuple[Example, ...] = ()

    @property
    def fitted_examples(self) -> tuple[Example, ...]:
        """The examples that the serving model is fitted to; the evaluation model is fitted to `train` alone."""
        return (*self.train, *self.feedback_holdout, *self.holdout)

    @property
    def holdout_mask(self) -> tuple[bool, ...]:
        """For each of `fitted_examples`, whether it is held out from the evaluation model."""
        return (False,) * len(self.train) + (True,) * (len(self.feedback_holdout) + len(self.holdout))

    @property
    def evaluation_examples(self) -> tuple[Example, ...]:
        """The examples on which challenger and champion are compared; neither evaluation model was fitted to them."""
        return (*self.holdout, *self.test)

    @property
    def parts(self) -> dict[str, tuple[Example, ...]]:
        """The examples by part, in the order of the snapshot's file."""
        examples = (self.train, self.feedback_holdout, self.holdout, self.test, self.golden)
        return dict(zip(PARTS, examples, strict=True))


def choose_part(example: Example) -> str:
    """Return the part of an example. A taxonomy's descriptors are definitions, so no model is measured on them."""
    if example.source == TAXONOMY:
        return TRAIN
    if example.source in FROM_PEOPLE:
        return FEEDBACK_HOLDOUT if _selects(digest_of_words(normalise(example.text))) else TRAIN
    return HOLDOUT if is_in_holdout(example.text) else TRAIN


def is_in_holdout(text: str) -> bool:
    """Say whether the hash of a text's content words selects it for the hold-out."""
    return _selects(digest_of_content(normalise(text)))


def _selects(digest: bytes) -> bool:
    return int.from_bytes(digest[:4], "big") % 100 < HOLDOUT_PERCENT


def split(examples: Sequence[Example], test: Sequence[Example], golden: Sequence[Example] = ()) -> DatasetSnapshot:
    """Split cleaned examples by the hash, and add the test examples and golden queries as parts of their own."""
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    for example in examples:
        parts[choose_part(example)].append(example)
    parts[TEST].extend(test)
    parts[GOLDEN].extend(golden)
    return _build(parts)


def read_snapshot(name: str, repository: Repository) -> DatasetSnapshot:
    """Return the snapshot of a name.

    Raises:
        SnapshotNotFound: there is none of that name, or the hash of its content is not its name.
        StorageFailed: the repository cannot be read now.

    """
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    for part, example in read_rows(name, repository):
        parts[part].append(example)
    return DatasetSnapshot(name, *(tuple(parts[part]) for part in PARTS))


def read_rows(name: str, repository: Repository) -> Iterator[tuple[str, Example]]:
    """Yield the part and the example of each row of a snapshot, without holding them all.

    Raises:
        SnapshotNotFound, StorageFailed: what `read_snapshot` says. A changed row is noticed only after the last row.

    """
    if not name.isalnum():
        raise SnapshotNotFound(name, "a name has letters and digits only")
    digest, rows = hashlib.sha256(), _read_file(name, repository)
    try:
        for part, example in rows:
            digest.update(_encode(part, example))
            if part not in PARTS:
                raise ValueError(f"there is no part {part!r}")
            yield part, example
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotNotFound(name, "its file is damaged") from error
    if _name_of(digest) != name:
        raise SnapshotNotFound(name, "there is no such file, or its content was changed")


def write_snapshot(snapshot: DatasetSnapshot, repository: Repository) -> None:
    """Write the snapshot. It is the newest file then, also when it was there already.

    Raises:
        StorageFailed: the repository refused.

    """
    from services.trainer.dataset.snapshot_table import write_table

    with repository_errors():
        repository.put_file(file_of(snapshot.id), lambda file: write_table(file, _rows_of(snapshot.parts)))


def file_of(name: str, suffix: str = SUFFIX) -> str:
    """Return the name of a snapshot's file in the repository."""
    return f"{FOLDER}/{name}{suffix}"


def _build(parts: Mapping[str, Sequence[Example]]) -> DatasetSnapshot:
    digest = hashlib.sha256()
    for part, example in _rows_of(parts):
        digest.update(_encode(part, example))
    return DatasetSnapshot(_name_of(digest), *(tuple(parts[part]) for part in PARTS))


def _rows_of(parts: Mapping[str, Iterable[Example]]) -> Iterator[tuple[str, Example]]:
    return ((part, example) for part, examples in parts.items() for example in examples)


def _read_file(name: str, repository: Repository) -> Iterator[tuple[str, Example]]:
    """Yield the rows of a file in today's form or in the former one; none if there is no file."""
    for suffix, read in ((SUFFIX, _read_parquet), (FORMER_SUFFIX, _read_json_lines)):
        with repository_errors():
            file = repository.open_file(file_of(name, suffix))
        if file is not None:
            with file:
                yield from read(file)
            return


def _read_parquet(file: BinaryIO) -> Iterator[tuple[str, Example]]:
    from services.trainer.dataset.snapshot_table import TableDamaged, read_table

    try:
        yield from read_table(file)
    except TableDamaged as error:
        raise ValueError from error


def _read_json_lines(file: BinaryIO) -> Iterator[tuple[str, Example]]:
    for line in file:
        if line.strip():
            row = json.loads(line)
            yield row["part"], Example(row["text"], tuple(row["labels"]), row["source"])


def _encode(part: str, example: Example) -> bytes:
    """Return a row as the line of JSON of which the hash is taken. Its form must stay."""
    row = {"text": example.text, "labels": example.labels, "part": part, "source": example.source}
    return f"{json.dumps(row, ensure_ascii=False)}\n".encode()


def _name_of(digest: "hashlib._Hash") -> str:
    return digest.hexdigest()[:16]
