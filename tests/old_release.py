"""The folders of a system as it was before the database, with every kind of file that its trainer wrote."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from moodfood.events.v1 import events_pb2 as events
from moodfood.registry.v1 import manifest_pb2 as registry
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2

from services.trainer.dataset.examples import FEEDBACK, Example
from services.trainer.dataset.snapshot import DatasetSnapshot, split
from services.trainer.upkeep.old_files import Folders

MODEL = "small"
SNAPSHOT = split(
    [Example("something glorptastic", ("flavor_spicy",), FEEDBACK), Example("soup", ("soup",), "seed")], []
)
# Microseconds of the times below.
DAY = 86_400_000_000
FIRST_DAY = 1_767_225_600_000_000  # 2026-01-01


def day(number: int) -> str:
    """Return midnight of a day of January 2026, as the files have it."""
    return f"2026-01-{number:02d}T00:00:00Z"


def micros(number: int) -> int:
    """Return the same in microseconds since 1970."""
    return FIRST_DAY + (number - 1) * DAY


FEEDBACK_RECORDS: tuple[dict[str, Any], ...] = (
    {"feedback_id": "f1", "at": day(1), "text": "something glorptastic", "labels": ["flavor_spicy"],
     "user_id": "anna", "source": "feedback", "request_id": "r1"},
    {"feedback_id": "f2", "at": day(2), "deleted": True},
    {"feedback_id": "f3", "at": day(3), "text": "imported", "labels": ["soup", "cake"], "source": "import"},
    {"feedback_id": "f4", "at": day(4), "text": "none fits", "query_id": "q1", "source": "review"},
)  # fmt: skip
SUSPECTS: tuple[dict[str, Any], ...] = (
    {"text": "doubtful", "labels": ["soup"], "reason": "suspected_noise", "believed": "cake", "confidence": 0.9},
    {"text": "both", "labels": ["soup"], "reason": "contradictory"},
    {"text": "decided before", "labels": ["soup"], "reason": "contradictory"},
)
RUNS: tuple[dict[str, Any], ...] = (
    {"run_id": "20260101-000000-000000-aaaa", "trigger": "TRIGGER_FIRST_MODEL", "state": "RUN_STATE_SUCCEEDED",
     "version": 1, "percent": 100, "started_at": day(1), "updated_at": day(1), "finished_at": day(1)},
    {"run_id": "20260102-000000-000000-bbbb", "trigger": "TRIGGER_MANUAL", "state": "RUN_STATE_REJECTED", "version": 2,
     "percent": 100, "reasons": ["bad"], "started_at": day(2), "updated_at": day(2), "finished_at": day(2),
     "request_id": "again"},
    {"run_id": "20260103-000000-000000-cccc", "trigger": "TRIGGER_DRIFT", "state": "RUN_STATE_RUNNING", "percent": 40,
     "stage": "RUN_STAGE_TRAIN", "started_at": day(3), "updated_at": day(4)},
)  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "schedule": {"kind": "SCHEDULE_KIND_WEEKLY", "day_of_week": 7, "hour": 3}, "running": True,
    "next_run_at": day(11), "last_outcome": "not due",
}  # fmt: skip
HISTORY: tuple[dict[str, Any], ...] = (
    {"action": "HISTORY_ACTION_PROMOTED", "to_version": 1, "generation": 1, "at": day(1), "by": "training run"},
    {"action": "HISTORY_ACTION_REFUSED", "from_version": 1, "to_version": 2, "generation": 1, "at": day(2)},
    {"action": "HISTORY_ACTION_PROMOTED", "from_version": 1, "to_version": 3, "generation": 2, "at": day(3)},
    {"action": "HISTORY_ACTION_ROLLED_BACK", "from_version": 3, "to_version": 1, "generation": 3, "at": day(4),
     "by": "anna", "reason": "wrong on soups"},
)  # fmt: skip
ALIAS: dict[str, Any] = {"version": 1, "generation": 3, "promoted_at": day(4), "by": "anna", "reason": "wrong on soups"}
EXPERIMENTS: tuple[dict[str, Any], ...] = (
    {"experiment_id": "e1", "kind": "EXPERIMENT_KIND_SHADOW", "challenger_version": 3, "champion_version": 1,
     "share": 1.0, "started_at": day(2), "ended_at": day(3), "reason": "enough"},
    {"experiment_id": "e2", "kind": "EXPERIMENT_KIND_CANARY", "challenger_version": 3, "champion_version": 1,
     "share": 0.1, "started_at": day(5), "running": True},
)  # fmt: skip
QUERIES = ("nothing like it", "something glorptastic", "soup please", "decided before", "late soup")


def write_old_folders(root: Path) -> Folders:
    """Write the folders `data` and `models` with every kind of file, and return where they are."""
    folders = Folders(root / "data", root / "models")
    data, model = folders.data, folders.models / MODEL
    feedback = [json_format.ParseDict(record, events.FeedbackRecord()) for record in FEEDBACK_RECORDS]
    _write(data / "feedback" / "feedback.jsonl", *(_line(record, defaults=False) for record in feedback))
    _write(data / "feedback" / ".feedback.jsonl.lock")
    decision = {"item_id": item_id_of("decided before"), "at": day(3)}
    _write(data / "review" / "resolved.jsonl", _line(json_format.ParseDict(decision, events.ReviewResolution())))
    suspects = [json_format.ParseDict(suspect, events.SuspectRecord()) for suspect in SUSPECTS]
    _write(data / "review" / "suspects.jsonl", *map(_line, suspects))
    for run in RUNS:
        _document(data / "runs" / f"{run['run_id']}.json", run, trainer_pb2.TrainingRun())
    _write(data / "runs" / ".lock")
    _write(data / "runs" / f"{RUNS[2]['run_id']}.cancel")
    _document(data / "schedule.json", SCHEDULE, scheduler_pb2.ScheduleState())
    _document(data / "drift" / f"{MODEL}-1-1.json", {"labels": {"soup": 7}, "until": day(2)}, events.TrafficRecord())
    write_query_log(data / "logs" / "query_logs.jsonl.1", QUERIES[:3])
    write_query_log(folders.query_log, QUERIES[3:], first=4)
    _document(model / "champion", ALIAS, registry.ChampionAlias())
    _document(model / "pending", {"version": 3, "generation": 4}, registry.ChampionAlias())
    history = [json_format.ParseDict(entry, registry.HistoryEntry()) for entry in HISTORY]
    _write(model / "history.jsonl", *map(_line, history))
    _write(model / "experiments.jsonl", _line(json_format.ParseDict(EXPERIMENTS[0], registry.Experiment())))
    _document(model / "experiment", EXPERIMENTS[1], registry.Experiment())
    _write(model / ".lock")
    _write(model / ".changing")
    for version in (1, 3):
        _write_version(model / str(version), version)
    write_old_snapshot(SNAPSHOT, model / "snapshots")
    return folders


def write_query_log(path: Path, texts: Sequence[str], first: int = 1) -> None:
    """Write queries, which the model was unsure of, with ids q<first> and so on, and an event of the trainer."""
    lines = [
        _line(
            json_format.ParseDict(
                {
                    "event": "query", "query_id": f"q{number}", "text": text, "stage": "linear", "model_version": 1,
                    "at": day(number), "latency_micros": 50, "labels": [{"label": "soup", "confidence": 0.4}],
                },
                events.QueryRecord(),
            )
        )
        for number, text in enumerate(texts, start=first)
    ]  # fmt: skip
    event = events.RetrainingEvent(event="retraining", status="started", training_run=str(RUNS[0]["run_id"]))
    _write(path, _line(event), *lines)


def write_old_snapshot(snapshot: DatasetSnapshot, folder: Path) -> Path:
    """Write a snapshot as JSON lines."""
    rows = [
        {"text": example.text, "labels": example.labels, "part": part, "source": example.source}
        for part, examples in snapshot.parts.items()
        for example in examples
    ]
    path = folder / f"{snapshot.id}.jsonl"
    _write(path, *(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


def item_id_of(text: str) -> str:
    """Return the id of a text's review item; the rule has not changed."""
    from services.trainer.dataset.words import text_key

    return text_key(text)


def _write_version(folder: Path, version: int) -> None:
    run = RUNS[0]["run_id"]
    snapshot = {"id": SNAPSHOT.id, "feedback_records": 3}
    manifest = {"model": MODEL, "version": version, "training_run": run, "created_at": day(1), "snapshot": snapshot}
    _document(folder / "manifest.json", manifest, registry.Manifest())
    _document(folder / "evaluation.json", {"accuracy": 0.75}, registry.EvaluationReport())
    passed = {"rule": "accuracy_floor", "passed": True}
    _document(folder / "decision.json", {"promoted": True, "rules": [passed]}, registry.PromotionDecision())
    _document(folder / "rehearsal.json", {"at": day(1), "rules": [passed]}, registry.Rehearsal())


def _document(path: Path, content: dict[str, Any], message: Message) -> None:
    message = json_format.ParseDict(content, message)
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=2, always_print_fields_with_no_presence=True
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _line(message: Message, *, defaults: bool = True) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=None, always_print_fields_with_no_presence=defaults
    )
