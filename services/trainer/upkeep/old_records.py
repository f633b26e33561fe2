"""Stores the records of one old file in the database, in a transaction of the caller.

What the database holds already is newer: it stays as it is, and old records get positions before it.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.events.v1 import events_pb2 as events
from moodfood.registry.v1 import manifest_pb2 as registry_pb
from moodfood.trainer.v1 import trainer_pb2 as pb
from moodfood.trainer.v1.scheduler_pb2 import ScheduleState
from sqlalchemy import Connection, Table, delete, select, update

from services.trainer.database import tables
from services.trainer.database.database import ROWS_AT_ONCE, next_positions
from services.trainer.dataset.words import describe_problem
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import queue_suspects
from services.trainer.feedback.store import FROM_TRAINING, Feedback, find_earlier, insert_rows, make_row
from services.trainer.registry.experiment import insert_experiment
from services.trainer.registry.history import insert_entry
from services.trainer.registry.moves import PENDING
from services.trainer.runs.store import insert_run
from services.trainer.schedule.scheduler import NAME
from services.trainer.storage import to_json
from services.trainer.upkeep import old_files
from services.trainer.upkeep.old_files import Reading, count_lines

# The lengths of columns. SQLite does not check them.
MAX_ID_CHARS, MAX_SHORT_ID_CHARS, MAX_RUN_ID_CHARS, MAX_SOURCE_CHARS = 128, 32, 64, 16
# The reason of a SuspectRecord; the other one is "contradictory".
_SUSPECTED_NOISE = "suspected_noise"

T = TypeVar("T")


def store_records(connection: Connection, reading: Reading) -> None:
    """Store the records of a file. Raises StorageFailed."""
    _STORE[reading.file.kind](connection, reading)


def store_experiments(connection: Connection, reading: Reading) -> None:
    """Store experiments that the database does not have."""
    known = tables.experiments.c.experiment_id
    for place, experiment in reading.messages(registry_pb.Experiment):
        if not experiment.experiment_id:
            reading.refuse(place, "has no experiment_id")
        elif connection.scalar(select(known).where(known == experiment.experiment_id)) is None:
            insert_experiment(connection, reading.file.model, experiment)
            reading.count_stored()


def _store_feedback(connection: Connection, reading: Reading) -> None:
    """Store feedback under the positions that it had in the file. A deleted record has one too, but no row."""
    _make_room(connection, tables.feedback, tables.FEEDBACK, count_lines(reading.file))
    for chunk in _in_chunks(enumerate(reading.messages(events.FeedbackRecord), start=1)):
        items = dict[str, tuple[int, Feedback, int]]()
        for position, (place, record) in chunk:
            if record.deleted:
                continue
            if problem := describe_problem(record.text):
                reading.refuse(place, f"the text {problem}")
                continue
            is_usable = 0 < len(record.feedback_id) <= MAX_SHORT_ID_CHARS and "\0" not in record.feedback_id
            feedback_id = record.feedback_id if is_usable else uuid.uuid4().hex
            items.setdefault(feedback_id, (position, _read_feedback(record), _micros(record.at)))
        column = tables.feedback.c.feedback_id
        for known in connection.scalars(select(column).where(column.in_(items))).all():
            del items[known]
        taken = set(find_earlier(connection, [item for _, item, _ in items.values()]))
        rows = []
        for feedback_id, (position, item, at) in items.items():
            row = dict(make_row(position, feedback_id, item, at))
            # Earlier releases stored a request id once, so a second one can only come from a copied line.
            if (item.user_id, item.request_id) in taken:
                row["request_id"] = ""
            taken.add((item.user_id, item.request_id))
            rows.append(row)
        if rows:
            insert_rows(connection, rows)
        reading.count_stored(len(rows))


def _store_decisions(connection: Connection, reading: Reading) -> None:
    column = tables.review_decisions.c.item_id
    for chunk in _in_chunks(reading.messages(events.ReviewResolution)):
        rows = dict[str, dict[str, Any]]()
        for place, decision in chunk:
            if 0 < len(decision.item_id) <= MAX_SHORT_ID_CHARS and "\0" not in decision.item_id:
                rows.setdefault(decision.item_id, {"item_id": decision.item_id, "at": _micros(decision.at)})
            else:
                reading.refuse(place, "has no item_id")
        for known in connection.scalars(select(column).where(column.in_(rows))).all():
            del rows[known]
        if rows:
            connection.execute(tables.review_decisions.insert(), list(rows.values()))
        reading.count_stored(len(rows))


def _store_suspects(connection: Connection, reading: Reading) -> None:
    """Queue the suspects of the last training run, unless a later one has found others."""
    items = []
    for place, record in reading.messages(events.SuspectRecord):
        if problem := describe_problem(record.text):
            reading.refuse(place, f"the text {problem}")
            continue
        is_noise = record.reason == _SUSPECTED_NOISE
        items.append(
            ReviewItem(
                record.text,
                Reason.SUSPECTED_NOISE if is_noise else Reason.DISAGREEING,
                record.confidence if is_noise else 1.0,
                record.believed,
                record.confidence,
                tuple(record.labels),
            )
        )
    of_training = select(tables.review_items.c.item_id).where(tables.review_items.c.origin == FROM_TRAINING)
    if connection.execute(of_training.limit(1)).first() is None:
        reading.count_stored(queue_suspects(connection, items))


def _store_runs(connection: Connection, reading: Reading) -> None:
    """Store a run. One that is still running has lost its trainer; the trainer that starts next ends it."""
    run_id, request_id = tables.runs.c.run_id, tables.runs.c.request_id
    for place, run in reading.messages(pb.TrainingRun):
        if not 0 < len(run.run_id) <= MAX_RUN_ID_CHARS or "\0" in run.run_id:
            reading.refuse(place, "has no run_id")
        elif connection.scalar(select(run_id).where(run_id == run.run_id)) is None:
            run.request_id = _clean(run.request_id)
            mine = (request_id == run.request_id) & (request_id != tables.EMPTY)
            if connection.scalar(select(run_id).where(mine)) is not None:
                run.request_id = ""
            insert_run(connection, run, _micros(run.updated_at if run.HasField("updated_at") else run.started_at))
            reading.count_stored()


def _store_schedule(connection: Connection, reading: Reading) -> None:
    for _, state in reading.messages(ScheduleState):
        if connection.scalar(select(tables.schedules.c.revision).where(tables.schedules.c.name == NAME)) is None:
            record = to_json(state, indent=None)
            connection.execute(tables.schedules.insert().values(name=NAME, revision=1, record=record))
            reading.count_stored()


def _store_drift_reference(connection: Connection, reading: Reading) -> None:
    """Store the traffic right after a promotion. The file's name is <model>-<version>-<generation>.json."""
    for place, record in reading.messages(events.TrafficRecord):
        model, *numbers = reading.file.path.stem.rsplit("-", 2)
        if len(numbers) != 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
            reading.refuse(place, "has no name like mood_food-3-5.json")
            continue
        key: dict[str, Any] = {"model": model, "version": int(numbers[0]), "generation": int(numbers[1])}
        is_known = (tables.drift_references.c[name] == value for name, value in key.items())
        if connection.execute(select(tables.drift_references.c.model).where(*is_known)).first() is None:
            connection.execute(tables.drift_references.insert().values(**key, record=to_json(record, indent=None)))
            reading.count_stored()


def _store_history(connection: Connection, reading: Reading) -> None:
    """Store the entries before those that the database has.

    A trainer that found the alias without its history has added an entry for it. The old entry, which says more, takes
    its place.
    """
    table, lines = tables.history, count_lines(reading.file)
    _make_room(connection, table, tables.HISTORY, lines)
    for position, (_, entry) in enumerate(reading.messages(registry_pb.HistoryEntry), start=1):
        if entry.action != registry_pb.HISTORY_ACTION_REFUSED:
            same = (table.c.model == reading.file.model) & (table.c.generation == entry.generation)
            not_refused = table.c.action != registry_pb.HISTORY_ACTION_REFUSED
            connection.execute(delete(table).where(same, not_refused, table.c.position > lines))
        insert_entry(connection, reading.file.model, position, entry)
        reading.count_stored()


def _store_pending(connection: Connection, reading: Reading) -> None:
    """Store a promotion that had begun and not ended. The trainer that starts next takes it back."""
    moves, history = tables.alias_moves, tables.history
    for _, alias in reading.messages(registry_pb.ChampionAlias):
        of_model = moves.c.model == reading.file.model
        later = select(moves.c.generation).where(of_model, moves.c.generation >= alias.generation)
        changes = (history.c.model == reading.file.model) & (history.c.action != registry_pb.HISTORY_ACTION_REFUSED)
        ended = select(history.c.generation).where(changes, history.c.generation >= alias.generation)
        if any(connection.execute(query.limit(1)).first() for query in (later, ended)):
            continue
        before = select(history.c.to_version).where(changes).order_by(history.c.generation.desc()).limit(1)
        connection.execute(
            moves.insert().values(
                model=reading.file.model,
                generation=alias.generation,
                version=alias.version,
                expected=connection.scalar(before) or 0,
                action=registry_pb.HISTORY_ACTION_PROMOTED,
                state=PENDING,
                at=_micros(alias.promoted_at),
            )
        )
        reading.count_stored()


_STORE: dict[str, Callable[[Connection, Reading], None]] = {
    old_files.DECISIONS: _store_decisions,
    old_files.FEEDBACK: _store_feedback,
    old_files.SUSPECTS: _store_suspects,
    old_files.RUNS: _store_runs,
    old_files.SCHEDULE: _store_schedule,
    old_files.DRIFT: _store_drift_reference,
    old_files.HISTORY: _store_history,
    old_files.EXPERIMENTS: store_experiments,
    old_files.PENDING: _store_pending,
}


def _make_room(connection: Connection, table: Table, counter: str, count: int) -> None:
    """Move all rows up by `count` positions, so that older records can take the positions from 1 to `count`."""
    position = table.c.position
    next_positions(connection, counter, count)
    if connection.execute(select(position).limit(1)).first() is not None:
        # In two steps, because a position may not be taken twice even for a moment.
        connection.execute(update(table).values(position=-(position + count)))
        connection.execute(update(table).values(position=-position))


def _in_chunks(values: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        yield chunk


def _read_feedback(record: events.FeedbackRecord) -> Feedback:
    return Feedback(
        record.text,
        tuple(record.labels),
        _clean(record.query_id),
        _clean(record.user_id),
        _clean(record.source)[:MAX_SOURCE_CHARS] or Feedback.source,
        _clean(record.request_id),
    )


def _clean(name: str) -> str:
    """Return a name as a database takes it."""
    return name.replace("\0", "\ufffd")[:MAX_ID_CHARS]


def _micros(at: Timestamp) -> int:
    return at.ToMicroseconds()
