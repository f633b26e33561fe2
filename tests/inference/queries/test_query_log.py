import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.inference.queries.query_log import QueryLog
from tests.conftest import ROOT
from tests.full_disk import disk_of
from tests.queries import BIG

EVENT = b'{"event": "retraining", "status": "started"}\n'

OWNER = """
import sys
from pathlib import Path
from services.inference.queries.query_log import QueryLog
log = QueryLog(Path(sys.argv[1]), 10**9, 1)
log.write([b'"from the other process"\\n'])
print(log.path.name, flush=True)
sys.stdin.read()
"""


def line(n: int, padding: int = 0) -> bytes:
    return json.dumps({"event": "query", "query_id": f"q{n}", "text": "x" * padding}).encode() + b"\n"


def is_even(text: bytes) -> bool:
    row = json.loads(text)
    return row["event"] == "query" and int(row["query_id"][1:]) % 2 == 0


def nothing() -> None:
    """Stands for a writer that has nothing to write between two files."""


def test_second_process_on_a_folder_writes_a_file_of_its_own_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "query_logs.jsonl"
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "query_logs.jsonl\n"
        second, third = QueryLog(path, BIG, 1), QueryLog(path, BIG, 1)
        second.write([line(2)])
        third.write([line(3)])
        first.kill()
    fourth = QueryLog(path, BIG, 1)
    fourth.write([line(4)])
    assert [log.path.name for log in (second, third, fourth)] == [
        "query_logs-2.jsonl",
        "query_logs-3.jsonl",
        "query_logs.jsonl",
    ]
    assert path.read_bytes() == b'"from the other process"\n' + line(4)
    for log in (second, third, fourth):
        log.close()


def test_rotation_keeps_the_lock_and_only_the_newest_files(tmp_path: Path) -> None:
    path = tmp_path / "query_logs.jsonl"
    log = QueryLog(path, 10, 3)
    for n in range(8):
        log.write([line(n)])
        log.rotate_if_full()
        other = QueryLog(path, BIG, 1)
        other.open()
        assert other.path.name == "query_logs-2.jsonl"
        other.close()
    kept = {file.name: file.read_bytes() for file in tmp_path.glob("query_logs.jsonl*")}
    assert kept == {"query_logs.jsonl": b""} | {f"query_logs.jsonl.{n}": line(8 - n) for n in (1, 2, 3)}


def test_file_that_somebody_moved_away_is_begun_anew(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "q", BIG, 1)
    log.write([line(1)])
    (tmp_path / "q").rename(tmp_path / "moved")
    log.write([line(2)])
    assert ((tmp_path / "moved").read_bytes(), (tmp_path / "q").read_bytes()) == (line(1), line(2))


def test_full_disk_tears_no_line_and_says_how_many_it_took(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "q", BIG, 1)
    with disk_of(3 * len(line(1)) + 5):
        assert log.write([line(n) for n in range(1, 6)]) == 3
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            log.write([line(4)])
    log.write([line(5)])
    assert (tmp_path / "q").read_bytes() == line(1) + line(2) + line(3) + line(5)


def test_line_and_rotation_that_a_killed_process_left_half_done_are_mended(tmp_path: Path) -> None:
    path = tmp_path / "q"
    path.write_bytes(line(1) + line(2)[:9])
    os.link(path, tmp_path / "q.1")
    (tmp_path / ".q.2.new").write_bytes(line(4))
    log = QueryLog(path, BIG, 3)
    log.write([line(3)])
    assert path.read_bytes() == line(1) + line(2)[:9] + b"\n" + line(3)
    assert [file.name for file in tmp_path.iterdir()] == ["q"]


def test_forgetting_reaches_the_rotated_files_and_spares_what_is_no_query(tmp_path: Path) -> None:
    path = tmp_path / "q"
    log = QueryLog(path, 10, 2)
    for n in (1, 2, 3, 4):
        log.write([line(n), EVENT, line(n + 10)])
        if n != 4:
            log.rotate_if_full()
    assert log.forget(is_even, nothing) == 4
    files = [(tmp_path / name).read_bytes() for name in ("q.2", "q.1", "q")]
    assert files == [EVENT, line(3) + EVENT + line(13), EVENT]
    other = QueryLog(path, BIG, 1)
    other.open()
    assert other.path != path


def test_forgetting_reaches_what_dead_processes_left_and_not_what_others_write(tmp_path: Path) -> None:
    logs = [QueryLog(tmp_path / "q.jsonl", BIG, 1) for _ in range(3)]
    for log in logs:
        log.write([line(1), line(2)])
    logs[0].close()
    assert logs[1].forget(is_even, nothing) == 2
    files = [log.path.read_bytes() for log in logs]
    assert files == [line(1), line(1), line(1) + line(2)]


@pytest.mark.parametrize("rotations", [(), (1, 2), (4,)])
def test_what_others_append_and_what_is_written_while_lines_are_forgotten_stays(
    tmp_path: Path, rotations: tuple[int, ...]
) -> None:
    path = tmp_path / "q"
    log = QueryLog(path, 10, 5)
    for n in (1, 2, 3):
        log.write([line(n)])
        log.rotate_if_full()
    log.write([line(4), line(5)])
    written: list[bytes] = []
    with path.open("ab", buffering=0) as trainer:

        def write_between() -> None:
            trainer.write(EVENT)  # to the file that was replaced
            written.append(line(6 + len(written)))
            log.write(written[-1:])
            if len(written) in rotations:
                log.rotate_if_full()

        assert log.forget(lambda text: text in (line(2), line(4)), write_between) == 2
    log.save_late_lines()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    expected = [line(n) for n in (1, 3, 5, 6, 7, 8, 9, 10)] + 5 * [EVENT]
    assert sorted(left.splitlines(keepends=True)) == sorted(expected)


def test_full_disk_leaves_a_file_as_it_was_when_lines_cannot_be_forgotten(tmp_path: Path) -> None:
    log = QueryLog(tmp_path / "q", BIG, 1)
    log.write([line(n, 1000) for n in range(20)])
    before = (tmp_path / "q").read_bytes()
    with disk_of(5000), pytest.raises(OSError, match="File too large"):
        log.forget(is_even, nothing)
    assert (tmp_path / "q").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["q"]
    log.write([line(20)])
    assert log.forget(is_even, nothing) == 11
