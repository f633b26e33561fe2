"""What the trainer collects from real inference servers, while stores fail and both sides come and go."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from moodfood.events.v1.events_pb2 import QueryRecord
from structlog.testing import capture_logs

from services.trainer.database.database import Database
from services.trainer.errors import StorageFailed
from services.trainer.feedback.deletion import delete_person
from services.trainer.feedback.erasures import Erasures
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.rollout import query_collector, replica_erasure
from services.trainer.rollout.query_collector import QueryCollector
from services.trainer.rollout.replica_erasure import ForgetOutcome, forget
from tests.queries import make_query, replica
from tests.system import free_ports

pytestmark = pytest.mark.anyio


class FailingStore(QueryStore):
    """A store in a file. `fail_before` and `fail_after` fail the next calls, without or with effect."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.erasures = Erasures(database)
        self.calls = 0
        self.fail_before = 0
        self.fail_after = 0
        self._lock = threading.Lock()

    @property
    def ids(self) -> list[str]:
        """The ids of the stored queries, in the order of storing."""
        return [query.query_id for query in self.recent(1000)]

    def keep(self, spool_id: str, position: int, records: Sequence[QueryRecord]) -> int:
        with self._lock:
            self.calls += 1
            if self.fail_before > 0:
                self.fail_before -= 1
                raise StorageFailed("the database is locked")
            kept = super().keep(spool_id, position, records)
            if self.fail_after > 0:
                self.fail_after -= 1
                raise StorageFailed("the answer of the database was lost")
            return kept


@pytest.fixture
def store(sqlite_url: str) -> Iterator[FailingStore]:
    with closing(Database(sqlite_url)) as database:
        yield FailingStore(database)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_collector, "RESOLVE_SECONDS", 0.02)
    monkeypatch.setattr(query_collector, "FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(query_collector, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(query_collector, "WORKS_SECONDS", 0.2)
    monkeypatch.setattr(query_collector, "CATCH_UP_SECONDS", 0.02)


@asynccontextmanager
async def collecting(store: FailingStore, *targets: str) -> AsyncIterator[None]:
    task = asyncio.create_task(QueryCollector(targets, store, store.erasures).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def ids(first: int, last: int) -> list[str]:
    return [f"q{n}" for n in range(first, last + 1)]


async def test_every_query_is_stored_once_whatever_breaks(store: FailingStore, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    async with replica(tmp_path, port) as served:
        # The trainer is away; then its store refuses; then it stores and the acknowledgement is lost.
        for query_id in ids(1, 600):
            served.writer.add(make_query(query_id))
        store.fail_before, store.fail_after = 2, 1
        async with collecting(store, address):
            await until(lambda: len(store.ids) >= 600)
        # Between two trainers, and with a second one beside it.
        for query_id in ids(601, 605):
            served.writer.add(make_query(query_id))
        async with collecting(store, address), collecting(store, address):
            await until(lambda: len(store.ids) >= 605)
        for query_id in ids(606, 610):
            served.writer.add(make_query(query_id))
    async with collecting(store, address):
        async with replica(tmp_path, port) as served:
            await until(lambda: len(store.ids) >= 610)
            served.writer.add(make_query("q611"))
            await until(lambda: len(store.ids) >= 611)
        async with replica(tmp_path, port) as served:
            served.writer.add(make_query("q612"))
            await until(lambda: len(store.ids) >= 612)
            await until(lambda: served.writer.stats().spooled == 0)
    assert store.ids == ids(1, 612)


async def test_nothing_is_acknowledged_before_it_is_stored(store: FailingStore, tmp_path: Path) -> None:
    store.fail_before = 3
    async with replica(tmp_path) as served:
        served.writer.add(make_query("q1"))
        async with collecting(store, served.address):
            await until(lambda: store.calls >= 3)
            assert (served.writer.stats().spooled, store.ids) == (1, [])
            await until(lambda: served.writer.stats().spooled == 0)
    assert store.ids == ["q1"]


async def test_replicas_that_come_and_go_are_collected_from(
    store: FailingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = list[str]()

    async def resolve(targets: Sequence[str]) -> list[str]:
        return list(named)

    monkeypatch.setattr(query_collector, "resolve", resolve)
    async with (
        replica(tmp_path / "a") as first,
        replica(tmp_path / "b") as second,
        collecting(store, "dns:///replicas:50051"),
    ):
        named.append(first.address)
        first.writer.add(make_query("a1"))
        await until(lambda: store.ids == ["a1"])
        # A name that does not resolve for a moment ends no stream.
        named[:] = [second.address]
        second.writer.add(make_query("b1"))
        await until(lambda: store.ids == ["a1", "b1"])
        first.writer.add(make_query("a2"))
        await until(lambda: store.ids == ["a1", "b1", "a2"])


async def test_operators_read_a_change_once_and_not_every_attempt(
    store: FailingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_collector, "WORKS_SECONDS", 60.0)  # so that only what is stored counts as working
    (port,) = free_ports(1)
    store.fail_before = 5
    with capture_logs() as lines:
        async with collecting(store, f"127.0.0.1:{port}"):
            await until(lambda: bool(lines))
            async with replica(tmp_path, port) as served:
                served.writer.add(make_query("q1"))
                await until(lambda: store.ids == ["q1"])
                await until(lambda: any(line["event"] == "collecting queries" for line in lines))
    said = [(line["event"], line.get("problem", "")) for line in lines if line.get("replica") == f"127.0.0.1:{port}"]
    assert "onnect" in said[0][1]
    assert said[1:4] == [
        ("cannot collect queries", "the database is locked"),
        ("collecting queries", ""),
        ("cannot collect queries", "the replica ended the stream"),
    ]


async def test_lost_queries_are_told(store: FailingStore, tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with replica(tmp_path) as served, collecting(store, served.address):
            served.writer._lost = 3
            served.writer.add(make_query("q1"))
            await until(lambda: any(line.get("queries") == 3 for line in lines))
            served.writer.add(make_query("q2"))
            await until(lambda: store.ids == ["q1", "q2"])
    told = [line["queries"] for line in lines if line["event"] == "queries were lost before they were collected"]
    assert told == [3]


async def test_forgetting_asks_every_replica_and_says_which_did_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_erasure, "MOST_IDS", 2)
    (closed,) = free_ports(1)
    async with replica(tmp_path / "a") as first, replica(tmp_path / "b") as second:
        for query_id in ids(1, 4):
            first.writer.add(make_query(query_id))
        second.writer.add(make_query("q5", at=datetime(2019, 1, 1, tzinfo=UTC).timestamp()))
        targets = (first.address, f"127.0.0.1:{closed}", second.address, "dns:///no-such-name.invalid:1")
        done, unreached, old, unnamed = await forget(targets, ids(1, 3), datetime(2020, 1, 1, tzinfo=UTC))
    assert ForgetOutcome(first.address, 3, 3) == done
    assert ForgetOutcome(second.address, 1, 1) == old
    assert (unreached.target, unnamed.target) == (f"127.0.0.1:{closed}", "dns:///no-such-name.invalid:1")
    assert unreached.problem
    assert unnamed.problem


async def test_forgetting_nothing_asks_nobody() -> None:
    assert await forget([], []) == []


@pytest.mark.parametrize("has_lost_its_spool", [False, True], ids=["spool kept", "spool lost"])
async def test_replica_that_was_away_deletes_what_was_erased_meanwhile(
    store: FailingStore, sqlite_url: str, tmp_path: Path, has_lost_its_spool: bool
) -> None:
    (port,) = free_ports(1)
    address, log = f"127.0.0.1:{port}", tmp_path / "query_logs.jsonl"
    async with collecting(store, address):
        async with replica(tmp_path, port) as served:
            served.writer.add(make_query("q1", "soup"))
            served.writer.add(make_query("q2", "cake"))
            await until(lambda: store.ids == ["q1", "q2"])
        with closing(Database(sqlite_url)) as database:
            FeedbackStore(database).add([Feedback("soup", ("a",), "q1", "anna")])
            with database.write() as connection:
                delete_person(connection, "anna")
        assert '"q1"' in log.read_text()
        if has_lost_its_spool:
            shutil.rmtree(tmp_path / "spool")
        async with replica(tmp_path, port):
            await until(lambda: '"q1"' not in log.read_text())
    assert '"q2"' in log.read_text()


async def test_replica_that_cannot_delete_still_delivers_and_is_asked_until_it_has_deleted(
    store: FailingStore, sqlite_url: str, tmp_path: Path
) -> None:
    log, obstacle = tmp_path / "query_logs.jsonl", tmp_path / ".query_logs.jsonl.new"
    async with replica(tmp_path) as served:
        async with collecting(store, served.address):
            served.writer.add(make_query("q1", "soup"))
            await until(lambda: store.ids == ["q1"])
        obstacle.mkdir()
        with closing(Database(sqlite_url)) as database:
            FeedbackStore(database).add([Feedback("soup", ("a",), "q1", "anna")])
            with database.write() as connection:
                delete_person(connection, "anna")
        with capture_logs() as lines:
            async with collecting(store, served.address):
                served.writer.add(make_query("q2", "cake"))
                await until(lambda: store.ids == ["q2"] and any("erased" in line["event"] for line in lines))
                assert '"q1"' in log.read_text()
                obstacle.rmdir()
                await until(lambda: '"q1"' not in log.read_text())
    told = [line["problem"] for line in lines if line["event"] == "a replica still has erased queries"]
    assert len(told) == 1
    assert "cannot delete from the query log" in told[0]
