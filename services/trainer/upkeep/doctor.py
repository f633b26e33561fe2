"""Checks that database, registry and alias agree, and mends what is safe to mend.

A check only reads. What it finds is a problem with a sentence. A problem without an advice is one that `mend` mends, by
what the trainer does when it starts; the others need a person. After mending, everything is checked again: only what is
gone then counts as mended.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
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
from services.trainer.dataset.snapshot import FORMER_SUFFIX, SUFFIX
from services.trainer.errors import BrokenData, TrainerError
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.erasures import Erasures
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.store import RunStore

REACH_IT = "see that it is reachable and can be written, then call this again"
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
    """The result: what was wrong and is mended, what still is wrong, and what is only worth knowing."""

    checks: tuple[str, ...]
    mended: tuple[Problem, ...]
    wrong: tuple[Problem, ...]
    notes: tuple[Problem, ...]


@dataclass(frozen=True)
class Stores:
    """What is checked. `recover` mends the registry and ends abandoned runs, as the trainer does when it starts."""

    database: Database
    registry: ModelRegistry
    leases: Leases
    runs: RunStore
    erasure: Erasure
    recover: Callable[[], Awaitable[None]]


async def diagnose(stores: Stores, *, mend: bool) -> Diagnosis:
    """Check everything and, if asked to, mend. It blocks the event loop."""
    found, mending = _check(stores), list[Problem]()
    if not mend or all(problem.advice for problem in found):
        return _conclude(found, found)
    try:
        await _mend(stores)
    except TrainerError as error:
        mending.append(Problem("mending", str(error), REACH_IT))
    return _conclude(found, [*_check(stores), *mending], TRY_LATER)


def _conclude(before: list[Problem], after: list[Problem], advice: str = "call `moodfood doctor --mend`") -> Diagnosis:
    notes = [problem for problem in after if problem.check in NOTES]
    wrong = [
        Problem(problem.check, problem.sentence, problem.advice or advice) for problem in after if problem not in notes
    ]
    return Diagnosis((*CHECKS, *NOTES), tuple(problem for problem in before if problem not in after), tuple(wrong),
                     tuple(notes))  # fmt: skip


def _check(stores: Stores) -> list[Problem]:
    found: list[Problem] = []
    for name, check in {**CHECKS, **NOTES}.items():
        try:
            problems = [Problem(name, sentence, advice) for sentence, advice in check(stores).items()]
        except BrokenData as error:
            problems = [Problem(name, str(error), "see the page on operations about backups")]
        except TrainerError as error:
            problems = [Problem(name, str(error), REACH_IT)]
        found.extend(problems)
        if problems and name == "database":
            break  # the other checks would only say the same
    return found


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
    stores.erasure.clean_files()
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
    with stores.database.read() as connection:
        revision = read_revision(connection)
        check_known(revision)
        if revision != NEWEST:
            return {f"the database has migration {revision or 'none'}, and this program needs {NEWEST}": ""}
        if file is not None:
            damage = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
            if damage != "ok":
                return {f"{file} is damaged ({damage})": "restore a backup with `moodfood restore`"}
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


def _check_snapshots(stores: Stores) -> _Found:
    """Say which versions cannot be repeated. An erasure deletes snapshots, so a missing one is not wrong."""
    folder, there = stores.registry.snapshots_folder, stores.registry.records.list_there()
    return {
        f"version {version} cannot be trained again: its snapshot {snapshot} was deleted": ""
        for version, snapshot in there.items()
        if snapshot and not any((folder / f"{snapshot}{suffix}").is_file() for suffix in (SUFFIX, FORMER_SUFFIX))
    }


CHECKS: Mapping[str, Callable[[Stores], _Found]] = {
    "database": _check_database,
    "counters": _check_counters,
    "alias": _check_alias,
    "versions": _check_versions,
    "experiment": _check_experiment,
    "runs": _check_runs,
    "leases": _check_leases,
    "erasures": _check_erasures,
    "leftovers": _check_leftovers,
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
