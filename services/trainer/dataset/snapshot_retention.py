"""Which snapshots stay: old ones are deleted by a rule, and so are those with the words of a forgotten person.

Snapshots in the form of earlier releases are found too, and can be converted. All trainers share the repository, so a
snapshot that one of them deletes is gone for all. Each function raises StorageFailed when the repository cannot be read
or written.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from services.repository.folder import FolderRepository
from services.repository.repository import Repository
from services.trainer.dataset.examples import FROM_PEOPLE
from services.trainer.dataset.snapshot import FOLDER, FORMER_SUFFIX, SUFFIX, read_snapshot, write_snapshot
from services.trainer.errors import SnapshotNotFound
from services.trainer.storage import repository_errors, storage_errors

# Those of the latest runs, which may have failed or be going on.
KEEP_NEWEST = 5
# What a killed run left half-written is deleted when no run can be writing it any more.
UNFINISHED_SECONDS = 3600.0


@dataclass(frozen=True)
class Converted:
    """How many snapshots were converted, and the names of those whose files are damaged, which stay as they were."""

    count: int
    damaged: tuple[str, ...]


def choose_snapshots_to_delete(
    newest_first: Sequence[str], of_versions: Collection[str], keep_newest: int = KEEP_NEWEST
) -> list[str]:
    """Return the names of snapshots that are neither a kept version's nor among the newest ones.

    Args:
        newest_first: names of the snapshots that there are.
        of_versions: names of the snapshots of the versions that the registry keeps.
        keep_newest: how many of the newest snapshots are kept in any case.

    """
    kept = {*of_versions, *newest_first[:keep_newest]}
    return [name for name in newest_first if name not in kept]


def list_snapshots(repository: Repository) -> list[str]:
    """Return the names of the snapshots that there are; the one that was written last comes first."""
    with repository_errors():
        return list(dict.fromkeys(file.stem for file in _list_files(repository)))


def prune_snapshots(repository: Repository, of_versions: Collection[str], keep_newest: int = KEEP_NEWEST) -> list[str]:
    """Delete the snapshots that the rule chooses, and what killed runs left half-written. Returns the names."""
    with repository_errors():
        files = _list_files(repository)
        doomed = choose_snapshots_to_delete(list(dict.fromkeys(file.stem for file in files)), of_versions, keep_newest)
        for file in files:
            if file.stem in doomed:
                repository.delete_file(str(file))
        repository.delete_half_written(FOLDER, UNFINISHED_SECONDS)
    return doomed


def delete_snapshots_with(repository: Repository, texts: Collection[str]) -> int:
    """Delete the snapshots that contain one of these texts as people's words, and return how many there were.

    A damaged or half-written file is deleted too: no run can learn from it, and it may contain a text. A run that was
    writing it fails. After StorageFailed, call it again.
    """
    if not texts:
        return 0
    with repository_errors():
        repository.delete_half_written(FOLDER)
        doomed = [file for file in _list_files(repository) if _contains_text(repository, file, texts)]
        for file in doomed:
            repository.delete_file(str(file))
    return len({file.stem for file in doomed})


def convert_snapshots(folder: Path, repository: Repository, put_aside: Callable[[Path], None]) -> Converted:
    """Write the snapshots of earlier releases into the repository. A second call does what the first one has left.

    After StorageFailed, no snapshot is lost.

    Args:
        folder: the folder of the model, in which earlier releases wrote snapshots.
        repository: may be that folder, or a bucket.
        put_aside: gets the path of a former file when its snapshot is in the repository.

    """
    count, damaged, former = 0, [], FolderRepository(folder)
    with repository_errors():
        files = [file for file in _list_files(former) if file.suffix == FORMER_SUFFIX]
    for file in reversed(files):  # the oldest first, so that their order by age stays
        try:
            write_snapshot(read_snapshot(file.stem, former), repository)
        except SnapshotNotFound:
            damaged.append(file.stem)
            continue
        put_aside(folder / file)
        count += 1
    return Converted(count, tuple(damaged))


def _list_files(repository: Repository) -> list[PurePosixPath]:
    """Return the files of snapshots, newest first."""
    files = (PurePosixPath(name) for name in repository.list_files(FOLDER))
    return [file for file in files if file.suffix in {SUFFIX, FORMER_SUFFIX}]


def _contains_text(repository: Repository, path: PurePosixPath, texts: Collection[str]) -> bool:
    file = repository.open_file(str(path))
    if file is None:  # another trainer has just deleted it
        return False
    with file, storage_errors(f"read {path.name}"):
        return _json_lines_contain(file, texts) if path.suffix == FORMER_SUFFIX else _table_contains(file, texts)


def _table_contains(file: BinaryIO, texts: Collection[str]) -> bool:
    from services.trainer.dataset.snapshot_table import TableDamaged, contains_text

    try:
        return contains_text(file, texts, FROM_PEOPLE)
    except TableDamaged:
        return True


def _json_lines_contain(file: BinaryIO, texts: Collection[str]) -> bool:
    for line in file:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            return True
        if not isinstance(row, dict):
            return True
        if row.get("source") in FROM_PEOPLE and row.get("text") in texts:
            return True
    return False
