"""Checks that database, registry and alias agree, and mends what is safe to mend.

A check only reads. What it finds is a problem with a sentence. A problem without an advice is one that `mend` mends, by
what the trainer does when it starts; the others need a person. After mending, everything is checked again: only what is
gone then counts as mended.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, func, select

from services.repository.disk import list_leftovers, remove_leftovers
from services.repository.repository import LEFTOVER_AFTER
from services.trainer.database.database import Database, raise_counters
from services.trainer.database.leases import RUN, Leases
from services.trainer.database.migrate import NEWEST, check_known, migrate, read_revision
from services.trainer.database.tables import (
    COUNTERS,
    ERASURES,
    FEEDBACK,
    HISTORY,
    QUERIES,
    counters,
    erasures,
    feedback,
    history,
    queries,
)
from services.trainer.dataset.snapshot_retention import list_snapshots
from services.trainer.errors import BrokenData, StorageFailed, TrainerError
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.erasures import Erasures
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.store import RunStore

REACH_IT = "see that it is reachable and can be written, then call this again"
MEND = "call `moodfood doctor --mend`"
DATABASE = "database"
TRY_LATER = "wait for the end of the run or promotion that goes on, or stop the trainer, then call this again"
NUMBERED = {FEEDBACK: feedback, QUERIES: queries, ERASURES: erasures, HISTORY: history}


@dataclass(frozen=True)
class Problem:
    """What a check found. `advice` says what a person has to do; it is empty when `mend` does it."""

    check: str
    sentence: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The result: what was checked, what was wrong and is mended, what still is wrong, what is only worth knowing."""

    checks: tuple[str, ...]
    mended: tuple[Problem, ...]
    wrong: tuple[Problem, ...]
    notes: tuple[Problem, ...]


@dataclass(frozen=True)
class Stores:
    """What is checked.

    `recover` mends the registry and ends abandoned runs, as the trainer does when it starts. `has_old_files` says
    whether there are files of an earlier release.
    """

    database: Database
    registry: ModelRegistry
    leases: Leases
    runs: RunStore
    erasure: Erasure
    recover: Callable[[], Awaitable[None]]
    has_old_files: Callable[[], bool]


async def diagnose(stores: Stores, *, mend: bool) -> Diagnosis:
    """Check everything and, if asked to, mend. It blocks the event loop."""
    before = _check(stores)
    if not mend or all(problem.advice for problem in _flatten(before) if problem.check not in NOTES):
        return _conclude(before, before, MEND)
    try:
        await _mend(stores)
    except TrainerError as error:
        return _conclude(before, {**_check(stores), "mending": [Problem("mending", str(error), REACH_IT)]}, TRY_LATER)
    return _conclude(before, _check(stores), TRY_LATER)


def _conclude(before: "_Checked", after: "_Checked", advice: str) -> Diagnosis:
    """Compare two rounds of checks. The advice is for what was left to `mend` and is still there."""
    wrong = [problem for problem in _flatten(after) if problem.check not in NOTES]
    mended = [problem for problem in _flatten(before) if problem.check not in NOTES and problem not in wrong]
    advised = [replace(problem, advice=problem.advice or advice) for problem in wrong]
    notes = [problem for problem in _flatten(after) if problem.check in NOTES]
    return Diagnosis(tuple(after), tuple(mended), tuple(advised), tuple(notes))


# The checks that were made, each with what it found.
_Checked = Mapping[str, Sequence[Problem]]


def _check(stores: Stores) -> _Checked:
    checked: dict[str, Sequence[Problem]] = {}
    for name, check in {**CHECKS, **NOTES}.items():
        try:
            checked[name] = [Problem(name, sentence, advice) for sentence, advice in check(stores).items()]
        except TrainerError as error:
            checked[name] = [Problem(name, str(error), REACH_IT)]
        if checked[name] and name == DATABASE:
            break  # the other checks would only say the same
    return checked


def _flatten(checked: _Checked) -> list[Problem]:
    return [problem for problems in checked.values() for problem in problems]


async def _mend(stores: Stores) -> None:
    migrate(stores.database)
    with stores.database.write() as connection:
        raise_counters(connection, dict.fromkeys(COUNTERS, 0) | _find_positions(connection))
    for name in stores.leases.list_dead():
        lease = stores.leases.take(name)
        if lease is not None:
            stores.leases.give_back(lease)
    alias = stores.registry.alias.read()
    if alias is not None and alias.generation < stores.registry.history.highest_generation():
        stores.registry.alias.skip_generations()
    await stores.recover()
    await stores.erasure.finish()
    for folder in _folders(stores):
        remove_leftovers(folder, LEFTOVER_AFTER.total_seconds())


# Sentences on what is wrong, each with its advice.
_Found = Mapping[str, str]


def _check_database(stores: Stores) -> _Found:
    file = stores.database.file
    if file is not None and not file.is_file():
        return {
            f"there is no database {file}": "check MOODFOOD_DATA_DIR; put one there with `moodfood restore`, or start "
            "the trainer, which makes an empty one"
        }
    try:
        with stores.database.read() as connection:
            revision = read_revision(connection)
            damage = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() if file is not None else "ok"
        check_known(revision)
    except BrokenData as error:
        return {str(error): "nothing of it was changed"}
    except StorageFailed as error:
        problem = str(error).partition(", so nothing was stored")[0]
        return {problem: "stop the trainer first" if "damaged" in problem else REACH_IT}
    if damage != "ok":
        return {f"{file} is damaged ({damage})": "stop the trainer, and restore a backup with `moodfood restore`"}
    if revision != NEWEST:
        return {f"the database has migration {revision or 'none'}, and this program needs {NEWEST}": ""}
    return {}


def _check_counters(stores: Stores) -> _Found:
    with stores.database.read() as connection:
        given = {row.name: row.value for row in connection.execute(select(counters))}
        lowest = _find_positions(connection)
    lowest[FEEDBACK] = max(lowest[FEEDBACK], stores.registry.learned_position())
    missing = {f"the counter {name} is missing": "" for name in COUNTERS if name not in given}
    return missing | {
        f"the counter {name} stands at {given[name]}, and {used} is in use": ""
        for name, used in lowest.items()
        if given.get(name, used) < used
    }


def _check_alias(stores: Stores) -> _Found:
    found, registry = dict[str, str](), stores.registry
    if registry.alias.is_damaged():
        last = registry.history.last_change()
        found["the file of the champion alias is damaged"] = "" if last else "deploy a version"
    alias, last, there = registry.alias.read(), registry.history.last_change(), registry.versions.numbers()
    if alias is None:
        if last is not None and last.to_version in there:
            found[f"no version is the champion, and version {last.to_version} was"] = (
                f"deploy version {last.to_version}, or start the trainer, which trains a model"
            )
        return found
    if alias.version not in there:
        found[f"the champion is version {alias.version}, which the registry does not have"] = (
            "copy its folder back, or deploy another version"
        )
    if not registry.alias.is_known(alias):
        found[f"the database does not know the move to version {alias.version}, generation {alias.generation}"] = ""
    if last is not None and last.generation > alias.generation:
        found[f"the alias has generation {alias.generation}, and the database {last.generation}"] = ""
    pending = registry.alias.pending()
    if pending is not None:
        found[f"the move with generation {pending.generation} was not finished"] = ""
    return found


def _check_versions(stores: Stores) -> _Found:
    versions, found = stores.registry.versions, dict[str, str]()
    different = versions.compare()
    for version in different.without_folder:
        found[f"the database has version {version}, and the registry does not"] = ""
    for version in versions.numbers():
        try:
            versions.check_files(version)
        except BrokenData as error:
            found[str(error)] = f"copy its folder back; without a copy, delete version {version} and deploy another one"
        else:
            if version in different.without_row:
                found[f"the registry has version {version}, and the database does not, or knows another one"] = ""
    return found


def _check_experiment(stores: Stores) -> _Found:
    published = stores.registry.experiment.is_published()
    return {} if published else {"the file of the experiment differs from the database": ""}


def _check_runs(stores: Stores) -> _Found:
    run = stores.runs.running()
    if run is None or stores.leases.is_held(RUN):
        return {}
    return {f"run {run.run_id} goes on, and no trainer carries it out": ""}


def _check_leases(stores: Stores) -> _Found:
    return {f"the holder of the lease {name} is dead": "" for name in stores.leases.list_dead()}


def _check_erasures(stores: Stores) -> _Found:
    texts = Erasures(stores.database).count_unfinished()
    return {f"{texts} deleted texts may still be in snapshots and embeddings": ""} if texts else {}


def _check_leftovers(stores: Stores) -> _Found:
    names = [*stores.registry.versions.unfinished()]
    names += [
        path.name for folder in _folders(stores) for path in list_leftovers(folder, LEFTOVER_AFTER.total_seconds())
    ]
    return {f"a write that died has left {name}": "" for name in dict.fromkeys(names)}


def _check_old_files(stores: Stores) -> _Found:
    if not stores.has_old_files():
        return {}
    return {"files of an earlier release are not in the database": "stop all services, and run `moodfood migrate`"}


def _check_snapshots(stores: Stores) -> _Found:
    """Say which versions cannot be repeated. An erasure deletes snapshots, so a missing one is not wrong."""
    snapshots = set(list_snapshots(stores.registry.repository))
    return {
        f"version {version} cannot be trained again: its snapshot {snapshot} was deleted": ""
        for version, snapshot in stores.registry.records.list_there().items()
        if snapshot and snapshot not in snapshots
    }


CHECKS: Mapping[str, Callable[[Stores], _Found]] = {
    DATABASE: _check_database,
    "counters": _check_counters,
    "alias": _check_alias,
    "versions": _check_versions,
    "experiment": _check_experiment,
    "runs": _check_runs,
    "leases": _check_leases,
    "erasures": _check_erasures,
    "leftovers": _check_leftovers,
    "old files": _check_old_files,
}
# What these find is worth knowing and not wrong.
NOTES: Mapping[str, Callable[[Stores], _Found]] = {"snapshots": _check_snapshots}


def _find_positions(connection: Connection) -> dict[str, int]:
    """Return the highest position that is in use, by counter."""
    return {name: connection.scalar(select(func.max(table.c.position))) or 0 for name, table in NUMBERED.items()}


def _folders(stores: Stores) -> Iterator[Path]:
    """Yield the folders on this machine in which a write that died can have left something."""
    if stores.database.file is not None:
        yield stores.database.file.parent
