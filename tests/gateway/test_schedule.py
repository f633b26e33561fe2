"""The schedule over REST, against the trainer's real servicer over a real channel."""

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from moodfood.trainer.v1 import scheduler_pb2_grpc

from services.gateway.app import build_app
from services.gateway.peers import connect
from services.gateway.settings import Settings
from services.trainer.api.error_table import ERROR_TABLE
from services.trainer.api.schedules import SchedulerServicer
from services.trainer.database.database import Database
from services.trainer.database.leases import Leases
from services.trainer.schedule.scheduler import Scheduler
from tests.fakes import running

pytestmark = pytest.mark.anyio


async def nothing(_tell: bool) -> str:
    return ""


@pytest.fixture
async def client(sqlite_url: str) -> AsyncIterator[httpx.AsyncClient]:
    database = Database(sqlite_url)
    servicer = SchedulerServicer(Scheduler(database, Leases(database), nothing))
    async with running(servicer, scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, ERROR_TABLE) as address:
        app = build_app(lambda: connect(Settings(trainer_address=address, inference_address="127.0.0.1:1")), 1_000_000)
        transport = httpx.ASGITransport(cast("Any", app), raise_app_exceptions=False)
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as opened:
            yield opened


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"kind": "weekly", "day": "Monday", "hour": 4}, {"kind": "weekly", "day_of_week": 1, "hour": 4, "minute": 0}),
        ({"kind": "monthly", "day": "31", "minute": 30}, {"kind": "monthly", "day_of_month": 31, "minute": 30}),
        ({"kind": "adaptive", "check_minutes": 5}, {"kind": "adaptive", "check_minutes": 5}),
    ],
)
async def test_schedule_is_started_shown_and_stopped(
    client: httpx.AsyncClient, body: dict[str, object], expected: dict[str, object]
) -> None:
    started = await client.post("/scheduler/start", json=body)
    assert (started.status_code, started.json()["status"], started.json()["running"]) == (200, "started", True)
    shown = (await client.get("/scheduler/status")).json()
    assert expected.items() <= shown["schedule"].items()
    assert shown["next_run_at"]
    stopped = (await client.post("/scheduler/stop")).json()
    assert (stopped["status"], stopped["running"], stopped["next_run_at"]) == ("stopped", False, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "daily"}, "kind"),
        ({"kind": "weekly", "day": "caturday"}, "day"),
        ({"kind": "monthly", "day": "32"}, "day"),
        ({"kind": "weekly", "hour": 24}, "hour"),
    ],
)
async def test_schedule_that_means_nothing_is_a_bad_request(
    client: httpx.AsyncClient, body: dict[str, object], field: str
) -> None:
    answer = await client.post("/scheduler/start", json=body)
    assert (400, field) == (answer.status_code, answer.json()["errors"][0]["field"])
    assert (await client.get("/scheduler/status")).json()["running"] is False
