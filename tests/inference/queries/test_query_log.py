import json
import threading
from pathlib import Path

from services.inference.queries.query_log import QueryLog

BIG = 10**9


def write_all(log: QueryLog, lines: list[str]) -> None:
    log.start()
    for line in lines:
        log.add(lambda line=line: line)  # type: ignore[misc]
    log.close()


def test_close_writes_everything_that_was_queued(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "queries.jsonl"
    lines = [json.dumps({"n": n}) for n in range(2500)]
    log = QueryLog(path, BIG, 3)
    write_all(log, lines)
    assert lines == path.read_text().splitlines()
    assert (log.stats().written, log.stats().dropped, log.stats().pending) == (2500, 0, 0)


def test_replicas_share_one_file_with_whole_lines_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    text = "x" * 300
    logs = [QueryLog(path, 20_000, 1000) for _ in range(3)]
    threads = [
        threading.Thread(target=write_all, args=(log, [json.dumps([who, n, text]) for n in range(400)]))
        for who, log in enumerate(logs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted(tmp_path.glob("queries.jsonl*"))
    written = [json.loads(line) for file in files if file.suffix != ".lock" for line in file.read_text().splitlines()]
    assert {(who, n) for who in range(3) for n in range(400)} == {(who, n) for who, n, _ in written}
    assert len(written) == 1200
    assert any(file.name.endswith(".1") for file in files)


def test_full_queue_drops_and_counts_instead_of_blocking(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "q", BIG, 1)
    for _ in range(20_005):
        log.add(lambda: "{}")
    assert log.stats().dropped == 5


def test_disk_that_refuses_is_counted_and_writing_goes_on_when_it_recovers(tmp_path: Path) -> None:
    blocked = tmp_path / "logs"
    blocked.write_text("a file where the folder should be")
    log = QueryLog(blocked / "q", BIG, 1)
    log.start()
    log.add(lambda: "{}")
    while log.stats().dropped == 0:
        threading.Event().wait(0.01)
    blocked.unlink()
    log.add(lambda: '{"n": 2}')
    log.close()
    assert (blocked / "q").read_text() == '{"n": 2}\n'
    assert (log.stats().written, log.stats().dropped) == (1, 1)


def test_oldest_rotated_files_go_away(tmp_path: Path) -> None:
    path = tmp_path / "q"
    for _ in range(8):
        write_all(QueryLog(path, 10, 3), ["x" * 20])
    assert sorted(file.name for file in tmp_path.glob("q.[0-9]")) == ["q.1", "q.2", "q.3"]
