"""Stores training runs as rows. The column `record` holds the TrainingRun; the others are those that are asked for.

A run is written by the trainer that carries it out, while it is running. Once its end is stored, nothing changes it.
So of two trainers that end a run, the first one counts. Every method blocks: call them off the event loop.
"""

import contextlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format
from moodfood.trainer.v1 import trainer_pb2 as pb
from sqlalchemy import Connection, Select, func, select, update
from sqlalchemy.exc import IntegrityError

from services.trainer.database.database import Database, next_positions
from services.trainer.database.tables import RUN_COUNTERS, counters, runs
from services.trainer.errors import TrainingRunNotFound
from services.trainer.storage import to_json

ID_FORMAT = "%Y%m%d-%H%M%S-%f"

_COUNTED = {pb.RunState.Value(f"RUN_STATE_{name.removeprefix('runs_').upper()}"): name for name in RUN_COUNTERS}


class RunStore:
    """The training runs of all trainers on a database. Run ids sort by time. Any thread may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def new_id(self) -> str:
        """Return an id that sorts after every stored one, also when the clock was set back. Raises StorageFailed."""
        moment = f"{datetime.now(UTC):{ID_FORMAT}}"
        with self._database.read() as connection:
            newest = (connection.scalar(select(func.max(runs.c.run_id))) or "")[: len(moment)]
        if moment <= newest:
            with contextlib.suppress(ValueError):
                after = datetime.strptime(newest, ID_FORMAT).replace(tzinfo=UTC) + timedelta(microseconds=1)
                moment = f"{after:{ID_FORMAT}}"
        return f"{moment}-{uuid.uuid4().hex[:4]}"

    def add(self, run: pb.TrainingRun) -> pb.TrainingRun:
        """Store a new run and return it; the run of the same request instead when there is one. Raises StorageFailed.

        A run id that is stored already is an IntegrityError.
        """
        try:
            with self._database.write() as connection:
                insert_run(connection, run)
        except IntegrityError:
            earlier = self.of_request(run.request_id)
            if earlier is None:
                raise
            return earlier
        return run

    def save(self, run: pb.TrainingRun) -> bool:
        """Store what changed of a run in progress, or its end. Returns False when its end is stored already.

        It also says that the trainer of the run is alive. Raises StorageFailed; then nothing was stored.
        """
        running = (runs.c.run_id == run.run_id) & (runs.c.state == pb.RUN_STATE_RUNNING)
        with self._database.write() as connection:
            values = _columns(run) | {"heartbeat_at": func.now_micros()}
            stored = connection.execute(update(runs).where(running).values(values)).rowcount == 1
            if stored:
                _count(connection, run)
        return stored

    def get(self, run_id: str) -> pb.TrainingRun:
        """Return a run as it is now. Raises TrainingRunNotFound and StorageFailed."""
        # Not every text that a caller may send is one that a database takes.
        is_id = run_id.replace("-", "").isalnum()
        run = self._first(select(runs.c.record).where(runs.c.run_id == run_id)) if is_id else None
        if run is None:
            raise TrainingRunNotFound(run_id)
        return run

    def running(self) -> pb.TrainingRun | None:
        """Return the newest run in progress, in any trainer; None when there is none. Raises StorageFailed."""
        return self._first(_newest_first().where(runs.c.state == pb.RUN_STATE_RUNNING))

    def of_request(self, request_id: str) -> pb.TrainingRun | None:
        """Return the run with this request id; None when there is none. Raises StorageFailed."""
        # The second condition is that of the index.
        mine = (runs.c.request_id == request_id) & (runs.c.request_id != "")
        return self._first(select(runs.c.record).where(mine)) if request_id else None

    def last_promoted(self) -> pb.TrainingRun | None:
        """Return the newest run that promoted a version; None when there is none. Raises StorageFailed."""
        promoted = (runs.c.state == pb.RUN_STATE_SUCCEEDED) & runs.c.validate_only.is_(False)
        return self._first(_newest_first().where(promoted))

    def had_drift_run_since(self, micros: int) -> bool:
        """Say whether a run for drift has started after a time, in microseconds since 1970. Raises StorageFailed."""
        for_drift = (runs.c.trigger == pb.TRIGGER_DRIFT) & (runs.c.started_at > micros)
        with self._database.read() as connection:
            return connection.execute(select(runs.c.run_id).where(for_drift).limit(1)).first() is not None

    def newest_first(self, count: int, before: str = "") -> list[pb.TrainingRun]:
        """Return at most `count` runs, newest first. Raises StorageFailed.

        Args:
            count: the largest number of runs.
            before: only runs that are older than the one with this id; empty for all.

        """
        query = _newest_first().where(runs.c.run_id < before) if before else _newest_first()
        with self._database.read() as connection:
            return [_read(record) for record in connection.scalars(query.limit(count))]

    def count_ended(self) -> dict["pb.RunState.ValueType", int]:
        """Return how many runs have ended in each state. Raises StorageFailed."""
        with self._database.read() as connection:
            rows = connection.execute(select(counters).where(counters.c.name.in_(RUN_COUNTERS)))
            values: Mapping[str, int] = {row.name: row.value for row in rows}
        return {state: values.get(name, 0) for state, name in _COUNTED.items()}

    def request_cancel(self, run_id: str) -> None:
        """Ask the trainer that carries out a run to cancel it. Raises StorageFailed."""
        running = (runs.c.run_id == run_id) & (runs.c.state == pb.RUN_STATE_RUNNING)
        with self._database.write() as connection:
            connection.execute(update(runs).where(running).values(cancel_requested=True))

    def is_cancel_requested(self, run_id: str) -> bool:
        """Say whether somebody has asked to cancel a run. Raises StorageFailed."""
        with self._database.read() as connection:
            return bool(connection.scalar(select(runs.c.cancel_requested).where(runs.c.run_id == run_id)))

    def _first(self, query: Select[str]) -> pb.TrainingRun | None:
        with self._database.read() as connection:
            record = connection.scalar(query.limit(1))
        return None if record is None else _read(record)


def insert_run(connection: Connection, run: pb.TrainingRun, alive_at: int | None = None) -> None:
    """Insert a run that was alive at a time, in microseconds since 1970; now when it is not given."""
    heartbeat = func.now_micros() if alive_at is None else alive_at
    connection.execute(runs.insert().values(_columns(run) | {"run_id": run.run_id, "heartbeat_at": heartbeat}))
    _count(connection, run)


def _newest_first() -> Select[str]:
    return select(runs.c.record).order_by(runs.c.run_id.desc())


def _columns(run: pb.TrainingRun) -> dict[str, Any]:
    return {
        "state": run.state,
        "trigger": run.trigger,
        "stage": run.stage,
        "percent": run.percent,
        "validate_only": run.validate_only,
        "request_id": run.request_id,
        "started_at": run.started_at.ToMicroseconds(),
        "finished_at": run.finished_at.ToMicroseconds() if run.HasField("finished_at") else None,
        "record": to_json(run, indent=None),
    }


def _count(connection: Connection, run: pb.TrainingRun) -> None:
    """Count a run that has ended, in the transaction that stores its end."""
    if run.state in _COUNTED:
        next_positions(connection, _COUNTED[run.state])


def _read(record: str) -> pb.TrainingRun:
    return json_format.Parse(record, pb.TrainingRun(), ignore_unknown_fields=True)
