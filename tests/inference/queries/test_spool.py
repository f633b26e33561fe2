import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from moodfood.events.v1.events_pb2 import QueryRecord

from services.inference.queries.spool import RECORDS_FILE, Batch
from services.inference.queries.spools import Spools
from tests.conftest import ROOT
from tests.full_disk import disk_of

MAX_BYTES = 10**6

# Adds one record after the other, and says so each time.
ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from moodfood.events.v1.events_pb2 import QueryRecord
from services.inference.queries.spools import Spools
spools = Spools(Path(sys.argv[1]), 10**6)
for n in count(1):
    spools.append([QueryRecord(query_id=f"q{n}").SerializeToString()])
    print(n, flush=True)
"""


def contents(first: int, last: int, padding: int = 0) -> list[bytes]:
    return [QueryRecord(query_id=f"q{n}", text="x" * padding).SerializeToString() for n in range(first, last + 1)]


def read(spools: Spools) -> Batch:
    batch = spools.read()
    assert batch is not None
    return batch


def read_ids(spools: Spools) -> list[str]:
    """Return everything that waits, and acknowledge it."""
    ids = []
    while (batch := spools.read()) is not None:
        ids += [record.query_id for record in batch.records]
        spools.acknowledge(batch.spool_id, batch.position)
    return ids


def ids(first: int, last: int) -> list[str]:
    return [f"q{n}" for n in range(first, last + 1)]


def nothing() -> None:
    """Stands for a writer that has nothing to write between two spools."""


def test_records_wait_until_they_are_acknowledged_and_positions_never_come_again(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 3))
    first = read(spools)
    assert ([record.query_id for record in first.records], first.position) == (ids(1, 3), 3)
    assert read(spools) == first
    spools.acknowledge(first.spool_id, 2)
    spools.acknowledge("another spool", 3)
    assert [record.query_id for record in read(spools).records] == ["q3"]
    spools.acknowledge(first.spool_id, 10**6)
    assert (spools.read(), spools.state()) == (None, (0, 0, 0, first.spool_id))
    spools.close()
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(4, 5))
    again = read(spools)
    assert (again.spool_id, again.position, len(again.records)) == (first.spool_id, 5, 2)


def test_batches_are_limited_by_count_and_by_bytes(tmp_path: Path) -> None:
    spools = Spools(tmp_path, 10**8)
    spools.append(contents(1, 501) + contents(502, 504, 600_000))
    sizes = []
    while (batch := spools.read()) is not None:
        sizes.append(len(batch.records))
        spools.acknowledge(batch.spool_id, batch.position)
    assert sizes == [500, 2, 1, 1]


def test_what_a_killed_process_has_added_is_there_and_positions_go_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        added = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.kill()
        added = max([added, *map(int, process.stdout.read().split())])
    spools = Spools(tmp_path, MAX_BYTES)
    batch = read(spools)
    assert batch.position in {added, added + 1}
    assert [record.query_id for record in batch.records] == ids(1, batch.position)
    spools.acknowledge(batch.spool_id, batch.position)
    spools.append(contents(1, 1))
    assert (read(spools).spool_id, read(spools).position) == (batch.spool_id, batch.position + 1)


def test_full_spool_drops_its_oldest_records_and_counts_them(tmp_path: Path) -> None:
    spools = Spools(tmp_path, 16_000)
    spools.append(contents(1, 200, 100))
    waiting, dropped, size, _ = spools.state()
    assert (waiting + dropped, size <= 16_000) == (200, True)
    assert 0 < dropped < 100
    batch = read(spools)
    assert (batch.records[0].query_id, batch.dropped) == (f"q{dropped + 1}", dropped)
    assert batch.position - len(batch.records) == dropped
    spools.close()
    spools = Spools(tmp_path, 16_000)
    assert read(spools).dropped == dropped
    assert read_ids(spools) == ids(dropped + 1, 200)


def test_full_disk_drops_what_it_does_not_take_and_the_rest_stays_whole(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 2, 100))
    with disk_of(300), pytest.raises(OSError, match="disk"):
        spools.append(contents(3, 4, 100))
    spools.append(contents(5, 5, 100))
    assert (spools.state()[:2], read(spools).position) == ((3, 2), 3)
    assert read_ids(spools) == ["q1", "q2", "q5"]


def test_records_that_the_disk_does_not_delete_keep_no_others_from_being_delivered(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 2))
    batch = read(spools)
    (spool,) = spools._owned
    spool._database.execute("PRAGMA query_only=ON")
    with pytest.raises(OSError, match="readonly"):
        spools.acknowledge(batch.spool_id, batch.position)
    assert spools.read() is None
    spool._database.execute("PRAGMA query_only=OFF")
    spools.append(contents(3, 3))
    spools.acknowledge(batch.spool_id, 10**6)
    spools.append(contents(4, 4))
    assert (read_ids(spools), spools.state()[0]) == (["q4"], 0)


def test_process_that_starts_on_a_full_disk_leaves_no_folder_for_every_attempt(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    with disk_of(0):
        for n in range(3):
            with pytest.raises(OSError, match="disk"):
                spools.append(contents(n, n))
        assert list(tmp_path.iterdir()) == []
    spools.append(contents(7, 7))
    assert (spools.state()[:2], read_ids(spools)) == ((1, 3), ["q7"])


def test_process_delivers_and_then_removes_what_dead_processes_left(tmp_path: Path) -> None:
    processes = [Spools(tmp_path, MAX_BYTES) for _ in range(3)]
    for n, spools in enumerate(processes):
        spools.append(contents(n, n))
    assert len(list(tmp_path.iterdir())) == 3
    for spools in processes[:2]:
        spools.close()
    heir = Spools(tmp_path, MAX_BYTES)
    heir.append(contents(7, 7))
    assert sorted(read_ids(heir)) == ["q0", "q1", "q7"]
    assert len(list(tmp_path.iterdir())) == 2
    assert read_ids(processes[2]) == ["q2"]


def test_forgotten_records_are_gone_and_the_others_keep_their_positions(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 6))
    doomed = {"q1", "q4"}
    assert spools.forget(lambda record: record.query_id in doomed, nothing) == 2
    assert spools.state()[0] == 4
    assert not any(b"q4" in path.read_bytes() for path in tmp_path.rglob("records.db*"))
    spools.append(contents(7, 7))
    spools.close()
    assert not any(b"q4" in path.read_bytes() for path in tmp_path.rglob("records.db*"))
    spools = Spools(tmp_path, MAX_BYTES)
    batches = []
    while (batch := spools.read()) is not None:
        batches.append(([record.query_id for record in batch.records], batch.position))
        spools.acknowledge(batch.spool_id, batch.position)
    assert batches == [(["q2", "q3"], 3), (["q5", "q6", "q7"], 7)]


def test_damaged_spool_is_left_and_another_one_takes_its_place(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 100, 1000))
    damaged = read(spools).spool_id
    spools.close()
    path = tmp_path / damaged / RECORDS_FILE
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(101, 101))
    assert read(spools).spool_id != damaged
    assert read_ids(spools) == ["q101"]


def test_spool_whose_folder_was_deleted_begins_anew_under_another_id(tmp_path: Path) -> None:
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 1))
    former = read(spools).spool_id
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):
        spools.read()
    spools.append(contents(2, 2))
    assert read(spools).spool_id != former
    assert read_ids(spools) == ["q2"]


def test_left_folder_that_cannot_be_used_does_not_keep_a_process_from_writing(tmp_path: Path) -> None:
    (tmp_path / "without records").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "not ours").touch()
    (tmp_path / "broken" / RECORDS_FILE).mkdir(parents=True)
    spools = Spools(tmp_path, MAX_BYTES)
    spools.append(contents(1, 1))
    assert (tmp_path / "without records").exists() is False
    assert (tmp_path / "lost+found" / "not ours").exists()
    assert read_ids(spools) == ["q1"]


def test_without_room_nothing_is_kept(tmp_path: Path) -> None:
    spools = Spools(tmp_path / "spool", 0)
    spools.open()
    spools.append(contents(1, 1))
    assert (spools.read(), spools.state(), (tmp_path / "spool").exists()) == (None, (0, 0, 0, ""), False)
