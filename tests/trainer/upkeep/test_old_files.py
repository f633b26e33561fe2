"""What an earlier release kept in files comes into the database whole, once, and in its order."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from google.protobuf import json_format
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2
from sqlalchemy import select
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.repository.folder import FolderRepository
from services.trainer.database import tables
from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.database.leases import RUN, Leases
from services.trainer.database.migrate import migrate
from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import BrokenData, StorageFailed
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review import Reason, ReviewItem
from services.trainer.feedback.review_queue import ReviewQueue, replace_suspects
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.record import begin_run
from services.trainer.runs.store import RunStore
from services.trainer.upkeep import moving, old_queries
from services.trainer.upkeep.moving import move_old_files
from services.trainer.upkeep.old_files import Folders, MoveReport, has_old_files
from tests import old_release as old
from tests.query_records import make_record
from tests.system import free_ports

EVERYTHING = {
    "review decisions": 1, "feedback": 3, "suspected examples": 2, "training runs": 3, "schedule": 1,
    "drift references": 1, "history": 4, "experiments": 2, "unfinished promotions": 1, "versions": 2, "snapshots": 1,
    "queries": 5,
}  # fmt: skip
KEEP = 1000


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return old.write_old_folders(tmp_path)


def move(database: Database, folders: Folders, keep: int = KEEP) -> MoveReport:
    return move_old_files(database, folders, old.MODEL, keep)


def registry_of(database: Database, folders: Folders) -> ModelRegistry:
    return ModelRegistry(folders.models, old.MODEL, 10, database)


def rows(database: Database, name: str) -> list[Any]:
    """Return all rows of a table in the order of its key."""
    table = tables.metadata.tables[name]
    with database.read() as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key.columns)))


def contents(database: Database) -> dict[str, list[Any]]:
    """Return the rows of all tables, without what tells when they were written."""
    return {
        name: [row for row in rows(database, name) if name != "moved_files"]
        for name in tables.metadata.tables
        if name != "leases"
    }


def files_of(folders: Folders) -> set[str]:
    return {path.name for folder in (folders.data, folders.models) for path in folder.rglob("*") if path.is_file()}


def test_what_people_said_keeps_its_order_its_ids_and_its_times(database: Database, folders: Folders) -> None:
    move(database, folders)
    stored = [
        (row.position, row.feedback_id, row.at, row.text, row.labels, row.query_id, row.user_id, row.source,
         row.request_id)
        for row in rows(database, "feedback")
    ]  # fmt: skip
    assert [
        (1, "f1", old.micros(1), "something glorptastic", ["flavor_spicy"], "", "anna", "feedback", "r1"),
        (3, "f3", old.micros(3), "imported", ["soup", "cake"], "", "", "import", ""),
        (4, "f4", old.micros(4), "none fits", [], "q1", "", "review", ""),
    ] == stored
    store = FeedbackStore(database)
    # The champion has learned the first three records, of which one was deleted.
    assert (store.watermark(), store.count_new_texts(3)) == (4, 1)
    again = store.add([Feedback("something glorptastic", ("flavor_spicy",), user_id="anna", request_id="r1")])
    assert again == ["f1"]


def test_review_shows_what_it_showed(database: Database, folders: Folders) -> None:
    move(database, folders)
    items, waiting = ReviewQueue(database, lambda: ()).items((), 20)
    # Queries that were labelled or decided do not come back, and neither does the suspect that was decided.
    assert {"nothing like it", "soup please", "late soup", "doubtful", "both"} == {item.text for item in items}
    assert waiting == 5
    assert [(old.item_id_of("decided before"), old.micros(3))] == rows(database, "review_decisions")
    doubtful = next(item for item in items if item.text == "doubtful")
    assert (doubtful.labels, doubtful.believed, doubtful.score) == (("soup",), "cake", 0.9)


def test_runs_schedule_and_drift_are_as_they_were(database: Database, folders: Folders) -> None:
    move(database, folders)
    store = RunStore(database)
    expected = [json_format.ParseDict(run, trainer_pb2.TrainingRun()) for run in reversed(old.RUNS)]
    assert expected == store.newest_first(10)
    assert (expected[0], expected[1]) == (store.running(), store.of_request("again"))
    counted = {trainer_pb2.RunState.Name(state): count for state, count in store.count_ended().items() if count}
    assert counted == {"RUN_STATE_SUCCEEDED": 1, "RUN_STATE_REJECTED": 1}
    assert store.new_id() > old.RUNS[2]["run_id"]
    assert [old.micros(1), old.micros(2), old.micros(4)] == [row.heartbeat_at for row in rows(database, "runs")]
    ((name, revision, record),) = rows(database, "schedules")
    assert (name, revision) == ("retraining", 1)
    assert json_format.ParseDict(old.SCHEDULE, scheduler_pb2.ScheduleState()) == json_format.Parse(
        record, scheduler_pb2.ScheduleState()
    )
    ((model, version, generation, record),) = rows(database, "drift_references")
    assert (model, version, generation, json.loads(record)["labels"]) == (old.MODEL, 1, 1, {"soup": 7})


def test_champion_history_and_versions_are_what_a_trainer_needs(database: Database, folders: Folders) -> None:
    move(database, folders)
    registry = registry_of(database, folders)
    expected = [json_format.ParseDict(entry, manifest_pb2.HistoryEntry()) for entry in old.HISTORY]
    assert {4 - n: entry for n, entry in enumerate(reversed(expected))} == registry.history.entries(10)
    assert (registry.alias.version(), registry.alias.next_generation()) == (1, 5)
    pending = registry.alias.pending()
    assert pending is not None
    assert (pending.version, pending.generation) == (3, 4)
    assert (registry.history.champion_before(3), rows(database, "alias_moves")[0].expected) == (1, 1)
    assert [record.version for record in registry.versions.list_newest(10)] == [3, 1]
    assert registry.versions.is_rehearsed(3)
    assert [
        [rule.rule for rule in registry.versions.decision(3).rules],
        registry.versions.decision(3).promoted,
    ] == [["accuracy_floor"] * 2, True]
    # A rollback back to version 3 is possible, and a new version gets a number that was never used.
    alias = registry.alias.move(3, 5, manifest_pb2.HISTORY_ACTION_ROLLED_BACK, "anna", "", expected=1)
    assert (alias.version, alias.generation, alias.previous) == (3, 5, 1)
    assert registry.records.take_number(registry.history.highest_version()) == 4


def test_experiments_go_on_and_their_file_stays(database: Database, folders: Folders) -> None:
    before = (folders.models / old.MODEL / "experiment").read_bytes()
    move(database, folders)
    record = registry_of(database, folders).experiment
    newest = [json_format.ParseDict(experiment, manifest_pb2.Experiment()) for experiment in reversed(old.EXPERIMENTS)]
    assert (newest, newest[0]) == (record.list_newest(5), record.running())
    record.publish()
    assert before == (folders.models / old.MODEL / "experiment").read_bytes()


def test_queries_keep_their_order_and_their_log_stays(database: Database, folders: Folders) -> None:
    before = folders.query_log.read_bytes()
    move(database, folders)
    store = QueryStore(database)
    recent = store.recent(9)
    assert [(f"q{n}", text, old.micros(n) / 1e6) for n, text in enumerate(old.QUERIES, start=1)] == [
        (query.query_id, query.text, query.at) for query in recent
    ]
    assert (
        recent[0].label, recent[0].confidence, recent[0].stage, recent[0].version, recent[0].micros
    ) == ("soup", 0.4, "linear", 1, 50)  # fmt: skip
    store.keep("spool", 1, [make_record("new")])
    assert [query.query_id for query in store.recent(2)] == ["q5", "new"]
    assert before == folders.query_log.read_bytes()


def test_only_the_newest_queries_are_kept(database: Database, folders: Folders) -> None:
    move(database, folders, keep=3)
    assert [query.query_id for query in QueryStore(database).recent(9)] == ["q3", "q4", "q5"]
    QueryStore(database, keep=3).keep("spool", 1, [make_record("new")])
    assert [query.query_id for query in QueryStore(database).recent(9)] == ["q4", "q5", "new"]


def test_snapshots_are_converted(database: Database, folders: Folders) -> None:
    move(database, folders)
    assert read_snapshot(old.SNAPSHOT.id, FolderRepository(folders.models / old.MODEL)) == old.SNAPSHOT
    assert [f"{old.SNAPSHOT.id}.parquet"] == [
        path.name for path in (folders.models / old.MODEL / "snapshots").iterdir()
    ]


def test_files_are_counted_and_put_aside_and_none_is_lost(database: Database, folders: Folders) -> None:
    before = files_of(folders)
    report = move(database, folders)
    assert (dict(report.stored), dict(report.unreadable), report.problems) == (EVERYTHING, {}, [])
    # The record that was deleted, and the suspect that was decided.
    assert dict(report.read - report.stored) == {"feedback": 1, "suspected examples": 1}
    assert before | {f"{old.SNAPSHOT.id}.parquet"} == files_of(folders)
    assert sorted(path.name for path in folders.data.iterdir()) == ["logs", "moved"]
    assert sorted(path.name for path in (folders.models / old.MODEL).iterdir()) == [
        "1",
        "3",
        "champion",
        "experiment",
        "snapshots",
    ]
    assert (folders.data / "moved" / "models" / old.MODEL / "history.jsonl").is_file()
    assert not has_old_files(folders)


def test_second_call_finds_nothing_left(database: Database, folders: Folders) -> None:
    move(database, folders)
    stored = contents(database)
    again = move(database, folders)
    assert (0, {}, stored) == (again.files, dict(again.read), contents(database))


def test_files_that_are_put_back_are_put_aside_again_and_stored_once(database: Database, folders: Folders) -> None:
    move(database, folders)
    stored = contents(database)
    shutil.copytree(folders.data / "moved" / "feedback", folders.data / "feedback")
    report = move(database, folders)
    assert (1, 0, stored) == (report.files, report.stored["feedback"], contents(database))
    assert (folders.data / "moved" / "feedback" / "feedback.jsonl.2").is_file()


def test_file_that_changed_since_it_was_moved_is_refused(database: Database, folders: Folders) -> None:
    move(database, folders)
    stored = contents(database)
    shutil.copytree(folders.data / "moved" / "feedback", folders.data / "feedback")
    with (folders.data / "feedback" / "feedback.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(BrokenData, match=r"feedback/feedback.jsonl are in the database already, but the file has"):
        move(database, folders)
    assert (stored, True) == (contents(database), has_old_files(folders))


class Killed(BaseException):
    """The process ends here."""


# What is called when the process is killed, and how often it has been called before.
POINTS = (
    (moving, "store_experiments", 0), (moving, "_adopt_versions", 0), (moving, "store_queries", 0),
    (QueryStore, "keep_older", 0), (QueryStore, "keep_older", 1), (moving, "put_aside", 0), (moving, "put_aside", 4),
    (moving, "put_aside_left_overs", 0),
)  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "calls"), POINTS)
def test_call_that_was_killed_is_continued_by_the_next_one(
    owner: object, name: str, calls: int, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, database = old.write_old_folders(tmp_path), Database(sqlite_url)
    monkeypatch.setattr(old_queries, "LINES_AT_ONCE", 2)
    original: Callable[..., Any] = getattr(owner, name)
    remaining = [calls]

    def dying(*arguments: Any, **options: Any) -> Any:
        if not remaining[0]:
            raise Killed
        remaining[0] -= 1
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dying)
        with pytest.raises(Killed):
            move(database, folders)
    move(database, folders)
    assert [f"q{n}" for n in range(1, 6)] == [query.query_id for query in QueryStore(database).recent(9)]
    assert [
        len(rows(database, table)) for table in ("feedback", "runs", "history", "experiments", "versions", "schedules")
    ] == [3, 3, 4, 2, 2, 1]
    assert (
        sorted(path.name for path in (folders.models / old.MODEL).iterdir() if path.name.isdigit()),
        has_old_files(folders),
    ) == (["1", "3"], False)
    assert move(database, folders).files == 0
    database.close()


def test_nothing_is_stored_when_the_first_step_fails(
    database: Database, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, before = contents(database), files_of(folders)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "store_experiments", lambda *_: (_ for _ in ()).throw(StorageFailed("full")))
        with pytest.raises(StorageFailed):
            move(database, folders)
    assert (empty, before) == (contents(database), files_of(folders))


def test_lines_that_cannot_be_read_are_counted_and_named(database: Database, folders: Folders) -> None:
    with (folders.data / "feedback" / "feedback.jsonl").open("a") as file:
        file.write('{"feedback_id": "f5", "at": "2026-01-05T00:00:00Z"}\n\n{"feedback_id": "f6", "te')
    with folders.query_log.open("a") as file:
        file.write('{"event": "query", "query_id": ""}\n{"event"')
    (folders.data / "runs" / "20260105-000000-000000-dddd.json").write_text("")
    report = move(database, folders)
    assert dict(report.unreadable) == {"feedback": 2, "queries": 2, "training runs": 1}
    assert sorted(report.problems) == [
        "feedback/feedback.jsonl line 5: the text is empty; send some text",
        "feedback/feedback.jsonl line 7: is not a record of this kind",
        "logs/query_logs.jsonl line 4: is not a record of this kind",
        "logs/query_logs.jsonl line 5: is not a record of this kind",
        "runs/20260105-000000-000000-dddd.json: is not a record of this kind",
    ]
    assert dict(report.stored) == EVERYTHING


def test_last_line_without_its_end_counts_when_it_is_whole(database: Database, folders: Folders) -> None:
    path = folders.data / "feedback" / "feedback.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    assert move(database, folders).stored["feedback"] == 3


def test_what_a_new_trainer_has_stored_already_stays_and_is_newer(database: Database, folders: Folders) -> None:
    store, registry = FeedbackStore(database), registry_of(database, folders)
    store.add([Feedback("something glorptastic", ("soup",)), Feedback("brand new", ("cake",))])
    QueryStore(database).keep("spool", 2, [make_record("q5", "late soup"), make_record("q6", "imported")])
    run = begin_run(RunStore(database).new_id(), trainer_pb2.TRIGGER_MANUAL, request_id="again")
    RunStore(database).add(run)
    replace_suspects(database, [ReviewItem("newer", Reason.SUSPECTED_NOISE, 0.9)])
    registry.repair()
    assert [entry.generation for entry in registry.history.entries(9).values()] == [3]
    move(database, folders)
    assert [row.position for row in rows(database, "feedback")] == [1, 3, 4, 5, 6]
    texts = ["brand new", "something glorptastic", "none fits", "imported", "something glorptastic"]
    assert [example.text for example in store.newest_first()] == texts
    assert [f"q{n}" for n in range(1, 7)] == [query.query_id for query in QueryStore(database).recent(9)]
    assert "again" not in [row.request_id for row in rows(database, "runs")][:3]
    assert run.run_id == RunStore(database).newest_first(1)[0].run_id
    history = registry.history.entries(9).values()
    assert [entry.generation for entry in history] == [3, 2, 1, 1]
    assert next(iter(history)).reason == "wrong on soups"
    assert [row.text for row in rows(database, "review_items") if row.origin == "training"] == ["newer"]
    # The query about which feedback was moved needs no reviewer any more.
    assert "imported" not in [row.text for row in rows(database, "review_items")]


@pytest.fixture
def named_folders(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folders]:
    """Folders of an earlier release that the environment names, with a port at which nobody listens."""
    for name, value in {
        "DATA_DIR": folders.data, "MODELS_DIR": folders.models, "MODEL": old.MODEL, "DATABASE_URL": "",
        "TRAINER_PORT": free_ports(1)[0],
    }.items():  # fmt: skip
        monkeypatch.setenv(f"MOODFOOD_{name}", str(value))
    yield folders
    structlog.reset_defaults()  # the command has sent the logs to a stream that is closed now


def test_command_shows_what_it_moved_and_then_that_nothing_is_left(named_folders: Folders) -> None:
    with (named_folders.data / "feedback" / "feedback.jsonl").open("a") as file:
        file.write('{"feedback_id')
    first = CliRunner().invoke(app, ["migrate", "--json"])
    assert (first.exit_code, first.stderr) == (
        0, "moodfood: cannot read feedback/feedback.jsonl line 5: is not a record of this kind\n"
    )  # fmt: skip
    shown = json.loads(first.stdout)
    assert {kind: row["stored"] for kind, row in shown["moved"].items()} == EVERYTHING
    assert shown["moved"]["feedback"] == {"read": 5, "stored": 3, "unreadable": 1}
    assert (shown["files"], len(shown["problems"])) == (12, 1)
    again = CliRunner().invoke(app, ["migrate"])
    assert (again.exit_code, again.stdout) == (0, "nothing is left to move\n")
    store = FeedbackStore(Database(file_url(named_folders.data / DATABASE_FILE)))
    assert len(list(store.export())) == 3


def test_command_shows_a_table(named_folders: Folders) -> None:
    result = CliRunner().invoke(app, ["migrate"])
    shown = [line.split("│")[1:-1] for line in result.stdout.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in shown[1]] == ["feedback", "4", "3", "0"]
    assert "12 files are in" in result.stdout


@pytest.mark.parametrize("sign", ["port", "lease"])
def test_command_moves_nothing_while_a_trainer_runs(
    sign: str, named_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(file_url(named_folders.data / DATABASE_FILE))
    migrate(database)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if sign == "port":
            monkeypatch.setenv("MOODFOOD_TRAINER_PORT", str(listening.getsockname()[1]))
        else:
            Leases(database).take(RUN)
        result = CliRunner().invoke(app, ["migrate"])
    assert (result.exit_code, result.stderr) == (
        1,
        "moodfood: a trainer is running; stop all services, then try again\n",
    )
    assert rows(database, "feedback") == []
    assert has_old_files(named_folders)
