"""Leases: what one trainer at a time may do, such as carry out a run or change the champion.

A lease is a row with a time at which it lapses. Its holder renews it; when the holder dies, another trainer takes it
over when it has lapsed, or at once when both run on one machine and the process of the holder is gone. Times are those
of the database, so the clocks of the trainers may differ. A lease that was given back has the time 0.

A holder that is cut off does not know at once that another one took over. So a lease is not what protects the champion
alias: the generation and the conditional swap of the alias are.
"""

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from services.trainer.database.database import Database
from services.trainer.database.tables import leases
from services.trainer.errors import StorageFailed

LEASE_SECONDS = 15.0
RENEW_SECONDS = 4.0

# The names of leases.
RUN, CHAMPION, SCHEDULE = "run", "champion", "schedule"

_log = structlog.get_logger()


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds. `token` is higher than that of every earlier holder."""

    name: str
    holder: str
    token: int


class Leases:
    """Takes, renews and gives back leases. Its methods block: call them off the event loop."""

    def __init__(self, database: Database, seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._micros = round(seconds * 1e6)

    def take(self, name: str) -> Lease | None:
        """Take a lease; None while somebody holds it, in this process or in another one.

        Raises:
            StorageFailed: the database could not be written.

        """
        holder = _PROCESS
        with contextlib.suppress(IntegrityError), self._database.write() as connection:
            row = connection.execute(
                select(leases.c.holder, leases.c.token, leases.c.expires_at, func.now_micros().label("now"))
                .where(leases.c.name == name)
                .with_for_update()
            ).one_or_none()
            if row is None:
                expires_at = func.now_micros() + self._micros
                connection.execute(leases.insert().values(name=name, holder=holder, token=1, expires_at=expires_at))
                return Lease(name, holder, 1)
            if row.expires_at > row.now and not _is_dead(row.holder):
                return None
            connection.execute(
                update(leases)
                .where(leases.c.name == name)
                .values(holder=holder, token=row.token + 1, expires_at=row.now + self._micros)
            )
            return Lease(name, holder, row.token + 1)
        return None

    def renew(self, lease: Lease) -> bool:
        """Push the end of a lease back. Raises StorageFailed.

        Returns False when another trainer has taken it over, or when it was given back: a call that was late must not
        keep it from others.
        """
        with self._database.write() as connection:
            renewed = connection.execute(
                update(leases)
                .where(leases.c.name == lease.name, leases.c.token == lease.token, leases.c.expires_at > 0)
                .values(expires_at=func.now_micros() + self._micros)
            )
            return renewed.rowcount == 1

    def give_back(self, lease: Lease) -> None:
        """Let the next trainer have the lease now. When the database refuses, the lease lapses by itself."""
        with contextlib.suppress(StorageFailed), self._database.write() as connection:
            connection.execute(
                update(leases).where(leases.c.name == lease.name, leases.c.token == lease.token).values(expires_at=0)
            )

    def is_held(self, name: str) -> bool:
        """Say whether a living trainer holds a lease. Raises StorageFailed."""
        with self._database.read() as connection:
            row = connection.execute(
                select(leases.c.holder, leases.c.expires_at, func.now_micros().label("now")).where(
                    leases.c.name == name
                )
            ).one_or_none()
        return row is not None and row.expires_at > row.now and not _is_dead(row.holder)

    def list_dead(self) -> list[str]:
        """Return the leases whose holders died on this machine before they lapsed. Raises StorageFailed."""
        query = select(leases.c.name, leases.c.holder).where(leases.c.expires_at > func.now_micros())
        with self._database.read() as connection:
            return [row.name for row in connection.execute(query.order_by(leases.c.name)) if _is_dead(row.holder)]

    @contextlib.asynccontextmanager
    async def hold(self, name: str, *, lost: asyncio.Event | None = None) -> AsyncIterator[Lease | None]:
        """Hold a lease and renew it for as long as the block lasts; None when somebody else holds it.

        Args:
            name: the lease.
            lost: set when another trainer has taken the lease over.

        Raises:
            StorageFailed: the database could not be written.

        """
        lease = await self._take(name)
        if lease is None:
            yield None
            return
        ended = asyncio.Event()
        renewing = asyncio.create_task(self._keep_renewing(lease, ended, lost))
        try:
            yield lease
        finally:
            ended.set()
            # Shielded, so that a cancelled holder gives its lease back all the same.
            await asyncio.shield(self._end(lease, renewing))

    async def _take(self, name: str) -> Lease | None:
        """Take a lease. Its thread goes on when the caller is cancelled; then the lease is given back."""
        taking = asyncio.create_task(asyncio.to_thread(self.take, name))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait([taking])
            if taking.exception() is None and (lease := taking.result()) is not None:
                await asyncio.to_thread(self.give_back, lease)
            raise

    async def _end(self, lease: Lease, renewing: "asyncio.Task[None]") -> None:
        await asyncio.wait([renewing], timeout=1.0)
        await asyncio.to_thread(self.give_back, lease)

    async def _keep_renewing(self, lease: Lease, ended: asyncio.Event, lost: asyncio.Event | None) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), RENEW_SECONDS)
                return
            try:
                if await asyncio.to_thread(self.renew, lease):
                    continue
            except StorageFailed as error:
                _log.warning("cannot renew a lease", lease=lease.name, problem=str(error))
                continue
            if ended.is_set():  # it was given back while this call was waiting
                return
            _log.error("another trainer has taken a lease over", lease=lease.name)
            if lost is not None:
                lost.set()
            return


def _describe_process() -> str:
    """Return what tells this process from every other one: the place of its id, its id, and a random part.

    The place is the host, this start of its kernel, and the namespace of process ids. Copies of a machine have the same
    name, and containers on two machines may have the same namespace; only the start of the kernel tells them apart.
    """
    boot_id = namespace = ""
    with contextlib.suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink().name
    return f"{socket.gethostname()}/{boot_id}/{namespace}|{os.getpid()}|{uuid.uuid4().hex[:8]}"


def _is_dead(holder: str) -> bool:
    """Say whether the process of a holder is gone for certain. Of a process on another machine nobody here knows."""
    place, pid, start = holder.split("|")
    own_place, own_pid, own_start = _PROCESS.split("|")
    if place != own_place:
        return False
    if pid == own_pid:
        return start != own_start
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


_PROCESS = _describe_process()
