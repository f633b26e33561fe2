"""The files in which earlier releases kept what the database holds today: how they are found, read and put aside.

A file has a name that does not depend on the machine: its path in the data folder, or `models/<model>/<file>`.
"""

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from services.language.names import EXPERIMENT_FILE
from services.trainer.storage import parse_message, storage_errors

# What is counted, as an operator reads it.
FEEDBACK, DECISIONS, SUSPECTS, QUERIES = "feedback", "review decisions", "suspected examples", "queries"
RUNS, SCHEDULE, DRIFT = "training runs", "schedule", "drift references"
HISTORY, EXPERIMENTS, PENDING = "history", "experiments", "unfinished promotions"
VERSIONS, SNAPSHOTS = "versions", "snapshots"

# In this order they are stored: a decision has to be there before what it decides.
_IN_DATA = (
    (DECISIONS, "review/resolved.jsonl"),
    (FEEDBACK, "feedback/feedback.jsonl"),
    (SUSPECTS, "review/suspects.jsonl"),
    (RUNS, "runs/[!.]*.json"),
    (SCHEDULE, "schedule.json"),
    (DRIFT, "drift/[!.]*.json"),
)
_IN_MODELS = ((HISTORY, "*/history.jsonl"), (EXPERIMENTS, "*/experiments.jsonl"), (PENDING, "*/pending"))
# Locks, requests to cancel a run, and what a kill left half-written.
_LEFT_OVER = ("feedback/.*", "review/.*", "runs/.*", "runs/*.cancel", "drift/.*", ".schedule.json.*",
              "logs/query_logs.jsonl.lock")  # fmt: skip
_LEFT_OVER_IN_MODELS = ("*/.lock", "*/.changing")
_FOLDERS = ("feedback", "review", "runs", "drift")
# So many lines that cannot be read are named. All are counted.
MOST_NAMED = 100

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Folders:
    """The data folder, and the folder of all models."""

    data: Path
    models: Path

    @property
    def query_log(self) -> Path:
        """The query log."""
        return self.data / "logs" / "query_logs.jsonl"


@dataclass(frozen=True)
class OldFile:
    """A file of an earlier release: what it holds, where it is, and its name; the model whose file it is, if any."""

    kind: str
    path: Path
    name: str
    model: str = ""


@dataclass
class MoveReport:
    """How much was read and stored of each kind, which lines cannot be read and why, and how many files were put aside.

    What was read and not stored was deleted before, is in the database already, or cannot be read.
    """

    read: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    files: int = 0

    def refuse(self, kind: str, place: str, problem: str = "is not a record of this kind") -> None:
        """Count what cannot be read, and name it."""
        self.unreadable[kind] += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(f"{place}: {problem}")


class Reading:
    """Reads a file once, from its beginning, and takes its SHA-256 on the way."""

    def __init__(self, file: OldFile, report: MoveReport) -> None:
        self.file = file
        self.report = report
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the file; call it when everything was read."""
        return self._digest.digest()

    def messages(self, kind: type[M]) -> Iterator[tuple[str, M]]:
        """Yield each record with its place, for a report. Those that cannot be read are reported. Raises StorageFailed.

        A last line without its end counts if it is complete.
        """
        for place, content in self._contents():
            self.report.read[self.file.kind] += 1
            message = parse_message(content, kind())
            if message is None:
                self.report.refuse(self.file.kind, place)
            else:
                yield place, message

    def refuse(self, place: str, problem: str) -> None:
        """Report a record that cannot be used."""
        self.report.refuse(self.file.kind, place, problem)

    def count_stored(self, stored: int = 1) -> None:
        """Count what was stored."""
        self.report.stored[self.file.kind] += stored

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        with storage_errors(f"read {self.file.name}"), self.file.path.open("rb") as file:
            if self.file.path.suffix != ".jsonl":
                content = file.read()
                self._digest.update(content)
                yield self.file.name, content
                return
            for number, line in enumerate(file, start=1):
                self._digest.update(line)
                if line.strip():
                    yield f"{self.file.name} line {number}", line


def find_old_files(folders: Folders) -> list[OldFile]:
    """Return the files whose records belong in the database, in the order in which they are to be stored."""
    in_data = (
        OldFile(kind, path, path.relative_to(folders.data).as_posix())
        for kind, pattern in _IN_DATA
        # Of two runs with the same request id, the newer one keeps it. So the newest run comes first.
        for path in sorted(folders.data.glob(pattern), reverse=True)
    )
    in_models = (
        OldFile(kind, path, f"models/{path.parent.name}/{path.name}", path.parent.name)
        for kind, pattern in _IN_MODELS
        for path in sorted(folders.models.glob(pattern))
    )
    return [*in_data, *in_models]


def has_old_files(folders: Folders) -> bool:
    """Say whether there is a file whose records belong in the database. It looks for one only."""
    found = chain(
        *(folders.data.glob(pattern) for _, pattern in _IN_DATA),
        *(folders.models.glob(pattern) for _, pattern in _IN_MODELS),
    )
    return next(found, None) is not None


def find_experiment(folders: Folders, model: str) -> OldFile | None:
    """Return the file that the replicas follow: the experiment that is running, or the last one. It stays in place."""
    path = folders.models / model / EXPERIMENT_FILE
    return OldFile(EXPERIMENTS, path, f"models/{model}/{path.name}", model) if path.is_file() else None


def hash_file(file: OldFile) -> bytes:
    """Return the SHA-256 of a file. Raises StorageFailed."""
    with storage_errors(f"read {file.name}"), file.path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def count_lines(file: OldFile) -> int:
    """Return the number of lines of a file. Raises StorageFailed."""
    with storage_errors(f"read {file.name}"), file.path.open("rb") as content:
        return sum(1 for _ in content)


def put_aside(path: Path, folders: Folders, name: str) -> None:
    """Move a file to `moved/` in the data folder, beside what is there under its name. Raises StorageFailed."""
    target = folders.data / "moved" / name
    free = next(place for place in chain([target], _numbered(target)) if not place.exists())
    with storage_errors(f"move {name} to {free.parent}"):
        free.parent.mkdir(parents=True, exist_ok=True)
        # Not a rename: the models may be on another disk than the data.
        shutil.move(path, free)


def put_aside_left_overs(folders: Folders) -> None:
    """Put aside what earlier releases need no more and nobody reads, and remove folders that are empty now."""
    for pattern in _LEFT_OVER:
        for path in folders.data.glob(pattern):
            put_aside(path, folders, path.relative_to(folders.data).as_posix())
    for pattern in _LEFT_OVER_IN_MODELS:
        for path in folders.models.glob(pattern):
            put_aside(path, folders, f"models/{path.parent.name}/{path.name}")
    for folder in _FOLDERS:
        with contextlib.suppress(OSError):  # somebody keeps another file there
            (folders.data / folder).rmdir()


def _numbered(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}.{number}") for number in count(2))
