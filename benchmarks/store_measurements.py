"""Measures what the trainer asks its database and its files, each size in a process of its own.

Run as a module, it is that process: it prints what it measured as JSON. Every call is timed several times, and the
median counts. The peak of the memory is that of the process, the interpreter and all libraries included. It is set back
before each call, which only Linux can do.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from moodfood.events.v1.events_pb2 import QueryRecord

from benchmarks.store_rows import LABELS, MODEL, write_alias
from services.repository.folder import FolderRepository
from services.repository.repository import Repository
from services.trainer.api.operations import list_page
from services.trainer.api.status import read_status
from services.trainer.api.versions import list_versions
from services.trainer.database.database import Database
from services.trainer.dataset.cleaning import clean
from services.trainer.dataset.examples import FEEDBACK as FROM_PEOPLE
from services.trainer.dataset.examples import IMPORT as FROM_IMPORT
from services.trainer.dataset.examples import Example
from services.trainer.dataset.snapshot import FOLDER, SUFFIX, read_rows, split, write_snapshot
from services.trainer.dataset.vectors import digest_of, open_vectors, to_keys, write_vectors
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.intake import Intake
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.run_feedback import RunFeedback
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.store import RunStore
from services.trainer.schedule.drift import measure_champion_drift
from services.trainer.schedule.due import DueCheck, DueRules

PAGE = 20
BATCH = 500
COLUMNS = 1152
IMPORTED = 100_000
# How often a call is timed; the first call of each is not counted.
OFTEN, SELDOM = 25, 9

STATUS, DUE, DRIFT, REVIEW = "status", "is retraining due", "drift", "a page of the review queue"
RUNS, VERSIONS, HISTORY = "a page of runs", "the list of versions", "a page of the history"
GIVE, GIVE_BY_ID, FORGET, KEEP = "give feedback", "give feedback by query id", "delete one text", "keep 500 queries"
CALLS = (GIVE, GIVE_BY_ID, KEEP, FORGET, STATUS, DUE, DRIFT, REVIEW, RUNS, VERSIONS, HISTORY)
COLLECT, EXPORT = "collect feedback for a run", "export all feedback"
IMPORT, WAIT = "import 100,000 examples", "longest wait of another writer meanwhile"
WRITE_SNAPSHOT, READ_SNAPSHOT, LOOK_UP = "write a snapshot", "read a snapshot", "open embeddings, look 256 up"

NAMES = tuple(f"label_{number}" for number in range(LABELS))
KNOWN_WORDS = frozenset({"something", "warm", "spicy", "day", "winter"})


@dataclass(frozen=True)
class Cost:
    """What one call takes: median seconds, the peak of the process in MB, and the bytes of a file, if it has one."""

    seconds: float
    peak_mb: float
    file_bytes: int = 0


Costs = dict[str, Cost]
# By number of rows.
Measured = dict[int, Costs]


def measure_in_process(*arguments: str) -> Costs:
    """Measure in a process of its own; see `main`."""
    command = [sys.executable, "-m", "benchmarks.store_measurements", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {name: Cost(**cost) for name, cost in json.loads(ended.stdout).items()}


def measure_calls(database: Database, models: Path) -> Costs:
    """Measure what has to cost the same however much is stored."""
    feedback, queries = FeedbackStore(database), QueryStore(database, lambda: KNOWN_WORDS)
    queue, runs = ReviewQueue(database, lambda: KNOWN_WORDS), RunStore(database)
    registry = ModelRegistry(models, MODEL, 10, database)
    intake, erasure = Intake(feedback, queries, queue, lambda: NAMES), Erasure(database, lambda _texts: 0)
    drift = partial(measure_champion_drift, database, registry, queries)
    check = DueCheck(registry, feedback, runs, drift, DueRules(10**9, 10**9))
    numbers = iter(range(2, 10**9))
    loop = asyncio.new_event_loop()

    def keep_batch() -> None:
        spool = uuid.uuid4().hex
        queries.keep(spool, BATCH, _make_records(spool))

    calls: dict[str, tuple[int, Callable[[], object]]] = {
        STATUS: (SELDOM, lambda: read_status(check)),
        DUE: (SELDOM, check.judge),
        DRIFT: (SELDOM, drift),
        REVIEW: (SELDOM, lambda: queue.items((), PAGE)),
        RUNS: (OFTEN, lambda: list_page(runs, PAGE, "")),
        VERSIONS: (OFTEN, lambda: list_versions(registry)),
        HISTORY: (OFTEN, lambda: registry.history.entries(PAGE)),
        GIVE: (OFTEN, lambda: feedback.add([Feedback(f"my own words {uuid.uuid4().hex}", NAMES[:1])])),
        GIVE_BY_ID: (
            OFTEN,
            lambda: loop.run_until_complete(intake.add(f"q{next(numbers)}", "", NAMES[:1], "somebody")),
        ),
        FORGET: (
            OFTEN,
            lambda: loop.run_until_complete(erasure.forget_person(f"person-{next(numbers)}")),
        ),
        KEEP: (SELDOM, keep_batch),
    }
    return {name: measure(call, times) for name, (times, call) in calls.items()}


def measure_reading(database: Database) -> Costs:
    """Measure what reads many statements: collecting for a run, which has a bound, and the export, which has none."""
    labels = set(NAMES)
    collect = lambda: split(clean((), RunFeedback(database).newest_first(), (), labels).examples, ())  # noqa: E731
    export = lambda: sum(len(example.text) for example in FeedbackStore(database).export())  # noqa: E731
    return {COLLECT: measure(collect), EXPORT: measure(export)}


def measure_import(database: Database) -> Costs:
    """Measure an import, and how long another writer waits at most meanwhile."""
    store, waits, over = FeedbackStore(database), list[float](), threading.Event()

    def write() -> None:
        while not over.is_set():
            began = time.perf_counter()
            store.add([Feedback("in between", NAMES[:1])])
            waits.append(time.perf_counter() - began)

    writer = threading.Thread(target=write)
    items = [Feedback(text, labels, source=FROM_IMPORT) for text, labels in _make_texts(IMPORTED)]
    writer.start()
    cost = measure(lambda: store.add(items))
    over.set()
    writer.join()
    return {IMPORT: cost, WAIT: Cost(max(waits), 0.0)}


def measure_files(folder: Path, size: int) -> Costs:
    """Measure a snapshot and a file of embeddings of so many examples."""
    repository = FolderRepository(folder)
    written, path, digests = _write_snapshot(repository, folder, size)
    read = measure(lambda: deque(read_rows(path.stem, repository), maxlen=0))
    keys, numbers = to_keys(digests), np.random.default_rng(1).standard_normal((4096, COLUMNS)).astype(np.float16)
    write_vectors(folder / "all.vectors", keys, COLUMNS, lambda places: numbers[places % 4096])
    asked = keys[:: max(1, size // 256)][:256]

    def look_up() -> object:
        stored = open_vectors(folder / "all.vectors", COLUMNS)
        return stored.rows[stored.find(asked)].sum(dtype=np.float32)

    looked_up = measure(look_up, OFTEN)
    return {
        WRITE_SNAPSHOT: Cost(written.seconds, written.peak_mb, path.stat().st_size),
        READ_SNAPSHOT: read,
        LOOK_UP: Cost(looked_up.seconds, looked_up.peak_mb, (folder / "all.vectors").stat().st_size),
    }


def _write_snapshot(repository: Repository, folder: Path, size: int) -> tuple[Cost, Path, Sequence[bytes]]:
    """Return the cost and the path of a snapshot, and the digests of its texts."""
    examples = [Example(text, labels, FROM_PEOPLE) for text, labels in _make_texts(size)]
    snapshot = split(examples, ())
    cost = measure(lambda: write_snapshot(snapshot, repository))
    return cost, folder / FOLDER / f"{snapshot.id}{SUFFIX}", [digest_of(example.text) for example in examples]


def measure(call: Callable[[], object], times: int = 0) -> Cost:
    """Return what a call takes. With 0 times it is called once; else so often, after once that is not counted."""
    if times:
        call()
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(max(1, times)):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return Cost(median(seconds), peak / 1024)


def _make_texts(count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number in range(count):
        yield f"something warm and spicy for day {number} of the {number % 997}th winter", (NAMES[number % LABELS],)


def _make_records(spool: str) -> Sequence[QueryRecord]:
    """Return a batch in which every fourth query is worth a look of a person."""
    records = []
    for number in range(BATCH):
        record = QueryRecord(
            event="query", query_id=f"{spool}-{number}", text=f"warm soup {number} {spool}", stage="linear",
            model_version=1, latency_micros=50,
        )  # fmt: skip
        record.at.GetCurrentTime()
        record.labels.add(label=NAMES[number % LABELS], confidence=0.3 if number % 4 == 0 else 0.9)
        records.append(record)
    return records


def main(what: str, place: str, size: str = "") -> None:
    """Print what was measured, as JSON.

    Args:
        what: "calls", "reading" or "import", which are asked of a database, or "files".
        place: URL of the database.
        size: number of examples in the files.

    """
    with tempfile.TemporaryDirectory() as folder:
        if what == "files":
            costs = measure_files(Path(folder), int(size))
        else:
            write_alias(Path(folder))
            database = Database(place)
            costs = {
                "calls": lambda: measure_calls(database, Path(folder)),
                "reading": lambda: measure_reading(database),
                "import": lambda: measure_import(database),
            }[what]()
            database.close()
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
