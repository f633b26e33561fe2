"""Files, review and deletion over REST, against the trainer's real servicer over a real channel."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from services.gateway.app import build_app
from services.gateway.peers import connect
from services.gateway.routes.labels import MAX_IMPORT_BYTES, PIECE_BYTES
from services.gateway.settings import Settings
from services.repository.folder import FolderRepository
from services.trainer.api.error_table import ERROR_TABLE
from services.trainer.api.labelling import Labelling, LabellingServicer
from services.trainer.database.database import Database
from services.trainer.dataset.snapshot_retention import delete_snapshots_with
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.intake import Intake
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import FeedbackStore
from tests.fakes import running
from tests.gateway.fakes import Answering, gateway
from tests.query_records import keep, make_record

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(sqlite_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    from moodfood.trainer.v1 import trainer_pb2_grpc

    database = Database(sqlite_url)
    queries = keep(database, make_record("q1", "doubtful soup", stage="keyword", labels=[{"label": "a"}]))
    feedback, queue = FeedbackStore(database), ReviewQueue(database, set)
    intake = Intake(feedback, queries, queue, lambda: ["a", "b"])
    erasure = Erasure(database, partial(delete_snapshots_with, FolderRepository(tmp_path)))
    labelling = Labelling(intake, feedback, queue, erasure)
    servicer = cast("Any", LabellingServicer)(labelling)
    add = trainer_pb2_grpc.add_TrainerServiceServicer_to_server
    async with running(servicer, add, ERROR_TABLE) as address:
        app = build_app(lambda: connect(Settings(trainer_address=address, inference_address="127.0.0.1:1")), 1_000_000)
        transport = httpx.ASGITransport(cast("Any", app), raise_app_exceptions=False)
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as opened:
            yield opened


async def test_examples_go_in_as_a_file_and_come_out_as_the_other(client: httpx.AsyncClient) -> None:
    lines = "".join(json.dumps({"text": f"soup, nr. {n} 🍲", "labels": ["a", "b"]}) + "\n" for n in range(1200))
    answer = (await client.post("/examples/import", content=lines)).json()
    assert answer == {"status": "imported", "imported": 1200, "errors": []}
    exported = await client.get("/examples/export", params={"file_format": "csv"})
    assert exported.headers["content-type"].startswith("text/csv")
    assert exported.text.splitlines()[:2] == ["text,labels,source", '"soup, nr. 0 🍲",a|b,import']
    again = await client.post("/examples/import", params={"file_format": "csv"}, content=exported.content)
    assert again.json()["imported"] == 1200


async def test_bad_lines_of_a_file_are_named_and_nothing_is_stored(client: httpx.AsyncClient) -> None:
    answer = await client.post("/examples/import", content='{"text": "ok", "labels": ["a"]}\n{"text": "x"}\n')
    assert answer.status_code == 422
    assert (
        answer.json()["imported"], answer.json()["errors"][0]["line"], answer.json()["errors"][0]["field"]
    ) == (0, 2, "line")  # fmt: skip
    assert (await client.get("/examples/export")).text == ""


async def test_unknown_format_is_a_bad_request(client: httpx.AsyncClient) -> None:
    for call in (
        client.post("/examples/import?file_format=xml", content="x"),
        client.get("/examples/export?file_format=xml"),
    ):
        answer = await call
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "file_format")


async def test_item_is_listed_decided_and_gone(client: httpx.AsyncClient) -> None:
    (item,) = (await client.get("/review", params={"reason": "uncertain"})).json()["items"]
    assert (item["text"], item["reason"], item["query_id"]) == ("doubtful soup", "uncertain", "q1")
    bad = await client.post(f"/review/{item['item_id']}", json={"labels": ["nope"]})
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (400, "labels[0]")
    decided = await client.post(f"/review/{item['item_id']}", json={"labels": ["b"], "user_id": "anna"})
    assert (decided.status_code, decided.json()["status"]) == (200, "recorded")
    assert (await client.get("/review")).json() == {"items": [], "waiting": 0}
    gone = await client.post(f"/review/{item['item_id']}", json={"dismiss": True})
    assert (gone.status_code, gone.json()["reason"]) == (404, "REVIEW_ITEM_NOT_FOUND")


async def test_reason_that_does_not_exist_is_a_bad_request(client: httpx.AsyncClient) -> None:
    answer = await client.get("/review", params={"reason": "because"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "reason")


async def test_person_is_forgotten_over_rest(client: httpx.AsyncClient) -> None:
    body = {"query_id": "q1", "labels": ["a"], "user_id": "anna", "request_id": "once"}
    ids = {(await client.post("/feedback", json=body)).json()["feedback_id"] for _ in range(2)}
    assert len(ids) == 1
    answer = (await client.delete("/users/anna/data")).json()
    assert answer == {
        "status": "deleted", "feedback": 1, "imports": 0, "queries": 1, "review_items": 0, "snapshots": 0,
        "embeddings": 0, "log_lines": 0, "spooled": 0, "replicas_pending": 0,
    }  # fmt: skip
    assert (await client.get("/examples/export")).text == ""


@pytest.mark.parametrize("announced", [True, False])
async def test_file_over_the_limit_is_a_413_and_nothing_is_stored(announced: bool) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * PIECE_BYTES

    headers = {"content-length": str(MAX_IMPORT_BYTES + 1)} if announced else {}
    trainer = Answering()
    async with gateway(trainer=trainer) as client:
        answer = await client.post("/examples/import", content=endless(), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert answer.json()["detail"] == "the body is larger than 67108864 bytes"
    assert trainer.requests == []


async def test_export_while_the_trainer_is_away_is_a_503() -> None:
    async with gateway() as client:
        answer = await client.get("/examples/export")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


async def test_export_of_very_many_examples_is_not_cut_off() -> None:
    seconds = list[float]()

    class Exporting(Answering):
        async def ExportExamples(self, request: Any, context: Any) -> AsyncIterator[Any]:
            seconds.append(context.time_remaining())
            yield self._answer("ExportExamples", request)

    async with gateway(trainer=Exporting()) as client:
        assert (await client.get("/examples/export")).status_code == 200
    assert seconds[0] > 1800
