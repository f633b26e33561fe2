"""Which snapshots stay on disk: old ones are deleted by a rule, and so are those with the words of a forgotten person.

Snapshots in the form of earlier releases are found too, and can be converted.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.dataset.examples import FROM_PEOPLE
from services.trainer.dataset.snapshot import FORMER_SUFFIX, SUFFIX, read_snapshot, write_snapshot
from services.trainer.errors import SnapshotNotFound
from services.trainer.storage import read_lines, storage_errors

# Those of the latest runs, which may have failed or be going on.
KEEP_NEWEST = 5
# What a killed run left half-written is deleted when no run can be writing it any more.
UNFINISHED_SECONDS = 3600.0


@dataclass(frozen=True)
class Converted:
    """How many snapshots were converted, and the names of those whose files are damaged, which stay as they were."""

    count: int
    damaged: tuple[str, ...]


def choose_snapshots_to_delete(newest_first: Sequence[str], of_versions: Collection[str]) -> list[str]:
    """Return the names of snapshots that are neither a kept version's nor among the newest KEEP_NEWEST.

    Args:
        newest_first: names of the snapshots on disk.
        of_versions: names of the snapshots of the versions that the registry keeps.

    """
    kept = {*of_versions, *newest_first[:KEEP_NEWEST]}
    return [name for name in newest_first if name not in kept]


def prune_snapshots(folder: Path, of_versions: Collection[str]) -> list[str]:
    """Delete the snapshots that the rule chooses, and what killed runs left half-written. Returns the names.

    Raises:
        StorageFailed: a file could not be deleted.

    """
    with storage_errors("delete snapshots"):
        files = sorted(_list_files(folder), key=lambda path: path.stat().st_mtime, reverse=True)
        doomed = choose_snapshots_to_delete(list(dict.fromkeys(path.stem for path in files)), of_versions)
        for path in files:
            if path.stem in doomed:
                path.unlink(missing_ok=True)
        for path in _list_unfinished(folder):
            if path.stat().st_mtime < time.time() - UNFINISHED_SECONDS:
                path.unlink(missing_ok=True)
    return doomed


def delete_snapshots_with(folder: Path, texts: Collection[str]) -> int:
    """Delete the snapshots that contain one of these texts as people's words, and return how many there were.

    A damaged or half-written file is deleted too: no run can learn from it, and it may contain a text. A run that was
    writing it fails.

    Raises:
        StorageFailed: a file could not be read or deleted; call it again.

    """
    if not texts:
        return 0
    with storage_errors("delete snapshots"):
        for path in _list_unfinished(folder):
            path.unlink(missing_ok=True)
        doomed = [path for path in _list_files(folder) if _contains_text(path, texts)]
        for path in doomed:
            path.unlink(missing_ok=True)
    return len({path.stem for path in doomed})


def convert_snapshots(folder: Path, put_aside: Callable[[Path], None]) -> Converted:
    """Write the snapshots of earlier releases in today's form. A second call does what the first one has left.

    The new file is as old as the former one, which is then given to `put_aside`.

    Raises:
        StorageFailed: the disk refused; no snapshot is lost.

    """
    count, damaged = 0, []
    for path in sorted(path for path in _list_files(folder) if path.suffix == FORMER_SUFFIX):
        try:
            converted = write_snapshot(read_snapshot(path.stem, folder), folder)
        except SnapshotNotFound:
            damaged.append(path.stem)
            continue
        with storage_errors(f"convert {path.name}"):
            written_at = path.stat().st_mtime
            os.utime(converted, (written_at, written_at))
        put_aside(path)
        count += 1
    return Converted(count, tuple(damaged))


def _list_files(folder: Path) -> list[Path]:
    return [path for suffix in (SUFFIX, FORMER_SUFFIX) for path in folder.glob(f"[!.]*{suffix}")]


def _list_unfinished(folder: Path) -> list[Path]:
    return [path for suffix in (SUFFIX, FORMER_SUFFIX) for path in folder.glob(f".*{suffix}.*")]


def _contains_text(path: Path, texts: Collection[str]) -> bool:
    if path.suffix == FORMER_SUFFIX:
        return _json_lines_contain(path, texts)
    from services.trainer.dataset.snapshot_table import TableDamaged, contains_text

    try:
        with path.open("rb") as file:
            return contains_text(file, texts, FROM_PEOPLE)
    except TableDamaged:
        return True


def _json_lines_contain(path: Path, texts: Collection[str]) -> bool:
    for line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            return True
        if not isinstance(row, dict):
            return True
        if row.get("source") in FROM_PEOPLE and row.get("text") in texts:
            return True
    return False
