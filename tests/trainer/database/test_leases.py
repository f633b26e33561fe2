"""Leases: one holder at a time, renewed while it lives, taken over when it does not."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from services.trainer.database import leases as module
from services.trainer.database.database import Database
from services.trainer.database.leases import RUN, Lease, Leases
from services.trainer.database.tables import leases

ELSEWHERE = "another-host/ns|1|ab12cd34"


def test_of_many_who_ask_at_once_one_gets_the_lease(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: Leases(database).take(RUN), range(8)))
    assert len([lease for lease in taken if lease is not None]) == 1


def test_lease_that_was_given_back_can_be_taken_at_once(database: Database) -> None:
    first = take(database)
    assert Leases(database).take(RUN) is None
    Leases(database).give_back(first)
    assert first.token + 1 == take(database).token


def test_lease_of_another_machine_is_taken_over_when_it_has_lapsed(database: Database) -> None:
    held = take(database)
    set_holder(database, ELSEWHERE)
    assert Leases(database).take(RUN) is None
    assert Leases(database).is_held(RUN)
    with database.write() as connection:
        connection.execute(update(leases).values(expires_at=1))
    assert not Leases(database).is_held(RUN)
    assert held.token + 1 == take(database).token
    assert not Leases(database).renew(held)


def test_renewed_lease_does_not_lapse(database: Database) -> None:
    short = Leases(database, seconds=0.001)
    held = short.take(RUN)
    assert held is not None
    set_holder(database, ELSEWHERE)
    assert Leases(database).renew(held)
    assert Leases(database).take(RUN) is None


def test_lease_of_a_dead_process_on_this_machine_is_taken_over_at_once(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    program = (
        "from services.trainer.database.database import Database; from services.trainer.database.leases import *; "
        f"print(Leases(Database({url!r})).take(RUN) is not None)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"
    assert take(database).token == 2


def test_lease_of_another_machine_of_the_same_name_is_left_to_it(database: Database) -> None:
    """Copies of one machine have the same name, and often the same ids of processes and of their namespaces."""
    take(database)
    place, pid, _ = module._PROCESS.split("|")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    set_holder(database, f"{place.replace(boot_id, 'another-boot')}|{pid}|ab12cd34")
    assert Leases(database).take(RUN) is None


def test_lease_that_was_given_back_is_not_renewed_by_a_call_that_was_late(database: Database) -> None:
    given_back = take(database)
    Leases(database).give_back(given_back)
    assert not Leases(database).renew(given_back)
    assert not Leases(database).is_held(RUN)


@pytest.mark.anyio
async def test_caller_that_goes_away_while_a_lease_is_taken_leaves_it_free(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, began, go_on = Leases(database), threading.Event(), threading.Event()

    def take_slowly(name: str) -> Lease | None:
        began.set()
        go_on.wait(10)
        return Leases(database).take(name)

    async def hold() -> None:
        async with subject.hold(RUN):
            raise AssertionError("it was cancelled before")

    monkeypatch.setattr(subject, "take", take_slowly)
    holding = asyncio.create_task(hold())
    await asyncio.to_thread(began.wait, 10)
    holding.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert take(database).token > 1


@pytest.mark.anyio
async def test_block_renews_its_lease_and_gives_it_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.01)
    held = Leases(database)
    async with held.hold(RUN) as lease:
        assert lease is not None
        with database.write() as connection:
            connection.execute(update(leases).values(expires_at=1, holder=ELSEWHERE))
        while not held.is_held(RUN):
            await asyncio.sleep(0.01)
        async with held.hold(RUN) as second:
            assert second is None
    assert not held.is_held(RUN)


@pytest.mark.anyio
async def test_holder_learns_that_its_lease_was_taken_over(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.01)
    lost = asyncio.Event()
    async with Leases(database).hold(RUN, lost=lost):
        with database.write() as connection:
            connection.execute(update(leases).values(token=leases.c.token + 1))
        await asyncio.wait_for(lost.wait(), 10)
    assert Leases(database).is_held(RUN)


def take(database: Database) -> Lease:
    lease = Leases(database).take(RUN)
    assert lease is not None
    return lease


def set_holder(database: Database, holder: str) -> None:
    with database.write() as connection:
        connection.execute(update(leases).values(holder=holder))
