import json
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.inference.errors import StorageFailed
from services.inference.queries import query_writer
from services.inference.queries.forgetting import Doomed
from services.inference.queries.query_log import QueryLog
from services.inference.queries.query_writer import Forgotten, QueryWriter
from services.inference.queries.spool import Batch
from services.inference.queries.spools import Spools
from tests.queries import BIG, make_query, write_to
from tests.system import eventually


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "query_logs.jsonl").read_text().splitlines()]


def spooled(folder: Path) -> list[str]:
    """Return the ids of what waits in a folder of spools that nobody uses."""
    spools, ids = Spools(folder / "spool", BIG), list[str]()
    while (batch := spools.read()) is not None:
        ids += [record.query_id for record in batch.records]
        spools.acknowledge(batch.spool_id, batch.position)
    spools.close()
    return ids


def collect(writer: QueryWriter) -> Batch:
    return writer.collect().result(timeout=10)


def test_close_writes_everything_that_was_queued_to_both(tmp_path: Path) -> None:
    writer = write_to(tmp_path)
    ids = [f"q{n}" for n in range(1200)]
    for query_id in ids:
        writer.add(make_query(query_id))
    writer.close()
    stats = writer.stats()
    assert (stats.written, stats.dropped, stats.pending, stats.spooled) == (1200, 0, 0, 1200)
    assert (ids, ids) == ([row["query_id"] for row in logged(tmp_path)], spooled(tmp_path))


def test_who_collects_gets_what_waits_and_then_every_new_query_after_acknowledging(tmp_path: Path) -> None:
    writer = write_to(tmp_path)
    writer.add(make_query("q1"))
    first = collect(writer)
    again = collect(writer)
    writer.acknowledge(first.spool_id, first.position)
    waiting = writer.collect()
    cancelled = writer.collect()
    cancelled.cancel()
    writer.add(make_query("q2"))
    second = waiting.result(timeout=10)
    last = writer.collect()
    writer.acknowledge(second.spool_id, second.position)
    writer.close()
    assert (again, second.position) == (first, 2)
    assert [record.query_id for batch in (first, second) for record in batch.records] == ["q1", "q2"]
    assert last.done()


@pytest.mark.parametrize("text", ["soup", "x" * 10_000])
def test_full_queue_drops_and_counts_instead_of_blocking(tmp_path: Path, text: str) -> None:
    writer = QueryWriter(QueryLog(tmp_path / "query_logs.jsonl", BIG, 1), Spools(tmp_path / "spool", BIG))
    fit = min(
        query_writer.MAX_QUEUE_QUERIES,
        query_writer.MAX_QUEUE_BYTES // (sys.getsizeof(text) + query_writer._QUERY_BYTES + query_writer._LABEL_BYTES),
    )
    query = make_query("q", text)
    for _ in range(fit + 5):
        writer.add(query)
    assert (writer.stats().dropped, writer.stats().pending) == (5, fit)
    assert fit * len(text) < query_writer.MAX_QUEUE_BYTES


def test_lost_queries_are_counted_for_the_trainer_too(tmp_path: Path) -> None:
    writer = QueryWriter(QueryLog(tmp_path / "query_logs.jsonl", BIG, 1), Spools(tmp_path / "spool", BIG))
    writer._queue_bytes = query_writer.MAX_QUEUE_BYTES
    writer.add(make_query("lost"))
    writer._queue_bytes = 0
    writer.start()
    writer.add(make_query("kept"))
    batch = collect(writer)
    writer.close()
    assert (batch.dropped, [record.query_id for record in batch.records]) == (1, ["kept"])


def test_query_that_cannot_be_rendered_is_counted_and_the_next_ones_are_written(tmp_path: Path) -> None:
    writer = write_to(tmp_path)
    writer.add(replace(make_query("bad"), at=float("nan")))
    writer.add(make_query("frozen for 36 minutes and more", seconds=2200.0))
    writer.close()
    (row,) = logged(tmp_path)
    assert (row["query_id"], row["latency_micros"]) == ("frozen for 36 minutes and more", 2**31 - 1)
    stats = writer.stats()
    assert (stats.written, stats.dropped, stats.spool_dropped) == (1, 1, 1)


@pytest.mark.parametrize(("blocked", "works"), [("query_logs.jsonl", "spool"), ("spool", "query_logs.jsonl")])
def test_disk_that_refuses_one_of_the_two_does_not_stop_the_other(tmp_path: Path, blocked: str, works: str) -> None:
    places = {name: tmp_path / name / name for name in ("query_logs.jsonl", "spool")}
    (tmp_path / blocked).write_text("a file where the folder should be")
    writer = QueryWriter(QueryLog(places["query_logs.jsonl"], BIG, 1), Spools(places["spool"], BIG))
    writer.start()
    writer.add(make_query("q1"))
    counts = {"query_logs.jsonl": lambda: writer.stats().dropped, "spool": lambda: writer.stats().spool_dropped}
    eventually(lambda: counts[blocked]() == 1, "the loss of a query")
    assert counts[works]() == 0
    (tmp_path / blocked).unlink()
    writer.add(make_query("q2"))
    writer.close()
    everything, rest = ["q1", "q2"], ["q2"]
    assert spooled(places["spool"].parent) == (rest if blocked == "spool" else everything)
    log_ids = [row["query_id"] for row in logged(places["query_logs.jsonl"].parent)]
    assert log_ids == (everything if blocked == "spool" else rest)


def test_who_collects_from_a_spool_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    writer = write_to(tmp_path)
    with pytest.raises(StorageFailed, match="cannot read the spool"):
        collect(writer)
    writer.close()


def test_forgetting_while_queries_are_written_loses_none_of_the_others(tmp_path: Path) -> None:
    writer, over, added = write_to(tmp_path), threading.Event(), list[str]()

    def add_queries() -> None:
        while not over.wait(0.0005):
            added.append(f"q{len(added)}")
            writer.add(make_query(added[-1]))

    thread = threading.Thread(target=add_queries)
    thread.start()
    forgotten = []
    for _ in range(5):
        writer.add(make_query("doomed"))
        writer.add(make_query("old", at=datetime(2020, 1, 1, tzinfo=UTC).timestamp()))
        doomed = Doomed(frozenset({"doomed", "unknown"}), datetime(2021, 1, 1, tzinfo=UTC))
        forgotten.append(writer.forget(doomed).result(timeout=10))
    over.set()
    thread.join()
    writer.close()
    assert forgotten == 5 * [Forgotten(2, 2)]
    assert (added, added) == ([row["query_id"] for row in logged(tmp_path)], spooled(tmp_path))


def test_whoever_asks_for_statistics_does_not_touch_the_disk(tmp_path: Path) -> None:
    threads = set[str]()

    class Watched(QueryLog):
        def state(self) -> Any:
            threads.add(threading.current_thread().name)
            return super().state()

    writer = QueryWriter(Watched(tmp_path / "query_logs.jsonl", BIG, 1), Spools(tmp_path / "spool", BIG))
    writer.start()
    threads.clear()
    writer.add(make_query("q1"))
    assert eventually(lambda: writer.stats().file_bytes, "a look at the file")
    writer.close()
    assert threads == {"query-writer"}


def test_close_does_not_wait_for_ever_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_writer, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(query_writer, "MAX_QUEUE_QUERIES", 10)
    thawed = threading.Event()

    class Hanging(QueryLog):
        def write(self, lines: Any) -> int:
            thawed.wait()
            return super().write(lines)

    writer = QueryWriter(Hanging(tmp_path / "query_logs.jsonl", BIG, 1), Spools(tmp_path / "spool", BIG))
    writer.start()
    for n in range(20):
        writer.add(make_query(f"q{n}"))
    writer.close()
    assert writer.stats().written == 0
    thawed.set()
    writer._thread.join()
