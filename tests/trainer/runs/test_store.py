"""Training runs as rows: what is asked of them costs the same however many there are."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.trainer.v1 import trainer_pb2 as pb
from sqlalchemy import event, text

from services.trainer.api.operations import list_page
from services.trainer.database.database import Database
from services.trainer.errors import TrainingRunNotFound
from services.trainer.runs.record import begin_run, end_run, skip_run
from services.trainer.runs.store import RunStore


def add(store: RunStore, run_id: str = "", trigger: pb.Trigger.ValueType = pb.TRIGGER_MANUAL, **fields: object) -> str:
    """Store a run in progress and return its id."""
    run = begin_run(run_id or store.new_id(), trigger, **fields)  # type: ignore[arg-type]
    return store.add(run).run_id


def end(store: RunStore, run_id: str, cause: Exception | None = None) -> None:
    run = store.get(run_id)
    end_run(run, cause)
    assert store.save(run)


def test_clock_set_back_neither_repeats_nor_reorders_runs(database: Database) -> None:
    store = RunStore(database)
    add(store, "29991231-235959-999999-abcd")
    ids = [add(store) for _ in range(3)]
    assert [run.run_id for run in store.newest_first(9)] == [*ids[::-1], "29991231-235959-999999-abcd"]


def test_run_is_as_it_was_saved_last_for_every_trainer(database: Database) -> None:
    store = RunStore(database)
    run = begin_run(add(store, request_id="r1"), pb.TRIGGER_MANUAL, request_id="r1")
    run.stage, run.percent, run.version = pb.RUN_STAGE_TRAIN, 41, 7
    assert store.save(run)
    with closing(Database(database.url)) as other:
        assert run == RunStore(other).get(run.run_id) == RunStore(other).running() == RunStore(other).of_request("r1")
    with database.read() as connection:
        columns = connection.execute(text("SELECT stage, percent, heartbeat_at FROM runs")).one()
    now = Timestamp()
    now.GetCurrentTime()
    assert (columns.stage, columns.percent) == (pb.RUN_STAGE_TRAIN, 41)
    assert abs(columns.heartbeat_at - now.ToMicroseconds()) < 60e6


@pytest.mark.parametrize("run_id", ["", "nope", "a\x00b", "x" * 500])
def test_run_that_does_not_exist_is_not_found(database: Database, run_id: str) -> None:
    with pytest.raises(TrainingRunNotFound):
        RunStore(database).get(run_id)


def test_one_request_is_one_run_however_often_and_fast_it_asks(database: Database) -> None:
    store = RunStore(database)
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda n: add(store, f"run-{n}", request_id="same"), range(4)))
    assert len(ids) == len(store.newest_first(9)) == 1
    assert add(store) != add(store)
    assert store.of_request("") is None


def test_of_two_ends_the_first_counts_and_is_counted_once(database: Database) -> None:
    store = RunStore(database)
    run_id = add(store)
    late = store.get(run_id)
    end(store, run_id, ValueError("first"))
    end_run(late, None)
    assert not store.save(late)
    skipped = begin_run(store.new_id(), pb.TRIGGER_CRON_TRIGGERED)
    skip_run(skipped, "not due")
    store.add(skipped)
    assert (store.get(run_id).state, store.running()) == (pb.RUN_STATE_FAILED, None)
    counted = {state: count for state, count in store.count_ended().items() if count}
    assert counted == {pb.RUN_STATE_FAILED: 1, pb.RUN_STATE_SKIPPED: 1}


def test_request_to_cancel_reaches_the_trainer_that_runs_and_outlives_its_next_save(database: Database) -> None:
    store = RunStore(database)
    run_id, other = add(store), add(store)
    store.request_cancel(run_id)
    store.save(store.get(run_id))
    assert (store.is_cancel_requested(run_id), store.is_cancel_requested(other)) == (True, False)
    assert not store.is_cancel_requested("nope")


def test_last_promotion_is_the_newest_success_that_was_no_trial(database: Database) -> None:
    store = RunStore(database)
    assert store.last_promoted() is None
    ids = [add(store, validate_only=trial) for trial in (False, False, True)]
    for run_id, cause in zip([*ids, add(store)], [None, None, None, ValueError()], strict=True):
        end(store, run_id, cause)
    last = store.last_promoted()
    assert last is not None
    assert ids[1] == last.run_id


def test_drift_had_its_run_only_if_one_began_since(database: Database) -> None:
    store = RunStore(database)
    add(store)
    began = store.get(add(store, trigger=pb.TRIGGER_DRIFT)).started_at.ToMicroseconds()
    assert store.had_drift_run_since(began - 1)
    assert not store.had_drift_run_since(began)


def test_pages_list_every_run_once_newest_first(database: Database) -> None:
    store = RunStore(database)
    ids = [add(store, f"run-{n}") for n in range(5)]
    seen, token = list[str](), ""
    while True:
        page, token = list_page(store, 2, token)
        seen += [run.run_id for run in page]
        if not token:
            break
    assert seen == ids[::-1]
    assert list_page(store, 5, "") == ([store.get(run_id) for run_id in ids[::-1]], "")
    with pytest.raises(TrainingRunNotFound):
        list_page(store, 2, "operations/nope")


def test_questions_of_a_page_and_of_the_status_read_by_index(sqlite_url: str) -> None:
    plans = list[str]()
    with closing(Database(sqlite_url)) as database:
        store = RunStore(database)
        run_id = add(store)

        @event.listens_for(database._engine, "before_cursor_execute")
        def explain(_connection, cursor, statement, parameters, _context, _many) -> None:  # type: ignore[no-untyped-def]
            if statement.startswith("SELECT"):
                cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans.extend(row[-1] for row in cursor.fetchall())

        store.new_id()
        store.get(run_id)
        store.running()
        store.of_request("r")
        store.last_promoted()
        store.had_drift_run_since(0)
        store.newest_first(5, before=run_id)
        store.is_cancel_requested(run_id)
    assert len(plans) >= 8
    assert [plan for plan in plans if plan.startswith("SCAN")] == []
