import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.inference.queries.query_log import QueryLog
from services.trainer.dataset.examples import FEEDBACK, Example
from services.trainer.dataset.snapshot import split, write_snapshot
from services.trainer.errors import StorageFailed
from services.trainer.feedback.erasure import Erased, Erasure
from services.trainer.feedback.query_history import QueryHistory
from services.trainer.feedback.store import Feedback, FeedbackStore
from tests.system import eventually


def line(query_id: str, text: str, days_old: int = 0) -> str:
    at = (datetime.now(UTC) - timedelta(days=days_old)).isoformat()
    return json.dumps({"event": "query", "query_id": query_id, "text": text, "at": at}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    path.with_name("queries.jsonl.1").write_text(line("q1", "anna one"))
    path.write_text(line("q2", "anna two") + line("q3", "ben one") + '{"event": "retraining"}\n')
    return path


def test_everything_a_person_said_is_gone_and_nothing_else(tmp_path: Path, log: Path) -> None:
    feedback, history = FeedbackStore(tmp_path / "feedback.jsonl"), QueryHistory(log)
    feedback.add(
        [
            Feedback("anna one", ("a",), "q1", "anna"),
            Feedback("anna two", ("a",), "q2", "anna"),
            Feedback("ben one", ("a",), "q3", "ben"),
        ]
    )
    folder = tmp_path / "snapshots"
    hers = write_snapshot(split([Example("anna one", ("a",), FEEDBACK), Example("seed", ("a",))], []), folder)
    others = write_snapshot(split([Example("ben one", ("a",), FEEDBACK), Example("anna two", ("a",))], []), folder)
    assert history.text_of("q1") == "anna one"

    erased = Erasure(feedback, log, folder, history).forget_person("anna")

    assert Erased(feedback=2, queries=2, snapshots=1) == erased
    assert [hers.exists(), others.exists()] == [False, True]
    assert [history.text_of(each) for each in ("q1", "q2", "q3")] == [None, None, "ben one"]
    left = "".join(path.read_text() for path in tmp_path.glob("*.jsonl*") if path.is_file())
    assert "anna" not in left
    assert '{"event": "retraining"}\n' in log.read_text()
    assert Erased(0, 0, 0) == Erasure(feedback, log, folder, history).forget_person("anna")


def test_what_is_older_than_it_may_be_kept_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "queries.jsonl"
    log.write_text(line("old", "long ago", days_old=40) + line("new", "today"))
    feedback = FeedbackStore(tmp_path / "feedback.jsonl")
    feedback.add([Feedback("today", ("a",))])
    assert Erased(0, 1, 0) == Erasure(feedback, log, tmp_path, QueryHistory(log)).forget_older_than(30)
    assert [json.loads(each)["query_id"] for each in log.read_text().splitlines()] == ["new"]
    assert [record.text for record in feedback.records()] == ["today"]


def test_query_that_is_logged_meanwhile_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(line("doomed", "anna", 0))
    feedback, writer = FeedbackStore(tmp_path / "feedback.jsonl"), QueryLog(path, 10**9, 1)
    feedback.add([Feedback("anna", ("a",), "doomed", "anna")])
    writer.start()
    written: list[str] = []
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            query_id = f"q{len(written)}"
            written.append(query_id)
            writer.add(lambda query_id=query_id: line(query_id, "ben").rstrip("\n"))  # type: ignore[misc]
            time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    eventually(lambda: len(written) > 50, "queries before the erasure")
    erased = Erasure(feedback, path, tmp_path / "snapshots", QueryHistory(path)).forget_person("anna")
    before = len(written)
    eventually(lambda: len(written) > before + 50, "queries after the erasure")
    over.set()
    thread.join()
    writer.close()
    logged = [json.loads(each)["query_id"] for each in path.read_text().splitlines()]
    assert (1, "doomed" in logged) == (erased.queries, False)
    assert set(written) == set(logged)


def test_place_that_cannot_be_read_is_a_failure_that_can_be_tried_again(tmp_path: Path, log: Path) -> None:
    feedback = FeedbackStore(tmp_path / "feedback.jsonl")
    feedback.add([Feedback("anna one", ("a",), "q1", "anna")])
    snapshots = tmp_path / "snapshots"
    write_snapshot(split([Example("anna one", ("a",), FEEDBACK)], []), snapshots)
    (snapshots / "no file.jsonl").mkdir()
    erasure = Erasure(feedback, log, snapshots, QueryHistory(log))
    with pytest.raises(StorageFailed, match="cannot delete snapshots"):
        erasure.forget_person("anna")
    (snapshots / "no file.jsonl").rmdir()
    assert Erased(feedback=1, queries=0, snapshots=1) == erasure.forget_person("anna")
