"""Errors of the gateway and of the services behind it, as problem details."""

from typing import Any

import grpc
import pytest

from services.inference import errors
from tests.fakes import Partial
from tests.gateway.fakes import Answering, gateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("DELETE", "/retrain", 405)])
async def test_unknown_path_and_method_are_problems_too(method: str, path: str, status: int) -> None:
    async with gateway() as client:
        response = await client.request(method, path)
    assert (status, "application/problem+json") == (response.status_code, response.headers["content-type"])


async def test_method_that_is_not_allowed_names_those_that_are() -> None:
    async with gateway() as client:
        response = await client.delete("/retrain/abtest/start")
    assert (response.status_code, set(response.headers["allow"].split(", "))) == (405, {"OPTIONS", "POST"})


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (errors.InvalidQuery("text", "is empty"), 400, "INVALID_QUERY"),
        (errors.ModelVersionNotFound(9), 404, "MODEL_VERSION_NOT_FOUND"),
        (errors.ModelRejected(9, "probe", "differs"), 409, "MODEL_REJECTED"),
        (errors.ReloadInProgress(), 409, "RELOAD_IN_PROGRESS"),
        (errors.NothingLoaded(), 503, "NOTHING_LOADED"),
        (errors.RegistryUnavailable("cannot read champion"), 503, "REGISTRY_UNAVAILABLE"),
        (RuntimeError("secret /etc/path"), 500, "INTERNAL"),
    ],
)
async def test_status_of_inference_becomes_one_http_status(error: Exception, status: int, reason: str) -> None:
    async with gateway(Answering(error=error)) as client:
        response = await client.post("/classify", json={"text": "x"})
    assert (status, reason) == (response.status_code, response.json()["reason"])
    assert "secret" not in response.text


async def test_field_of_inference_gets_its_name_in_rest() -> None:
    async with gateway(Answering(error=errors.InvalidQuery("context.mood", "is too long"))) as client:
        problem = (await client.post("/enhanced-recommend", json={"text_input": "x"})).json()
    assert problem["errors"][0]["field"] == "user_context.mood"
    assert problem["detail"] == "user_context.mood: is too long"


async def test_service_that_is_away_is_a_503_without_addresses() -> None:
    async with gateway() as client:
        for path, body in (("/classify", {"text": "x"}), ("/retrain", {}), ("/retrain/rollback", {})):
            response = await client.post(path, json=body)
            assert (response.status_code, response.json()["reason"]) == (503, "UNAVAILABLE")
            assert "127.0.0.1" not in response.text


async def test_service_that_hangs_is_a_504() -> None:
    class Hanging(Partial):
        async def Classify(self, request: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "late")

    async with gateway(Hanging()) as client:
        response = await client.post("/classify", json={"text": "x"})
    assert response.status_code == 504
