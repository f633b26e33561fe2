"""What the API page says, compared with what the routes do."""

import json
from collections.abc import AsyncIterator
from typing import Any, get_args

import grpc
import httpx
import pytest
from moodfood.inference.v1 import inference_pb2
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2

from services.gateway.routes import experiments, fields, labels, runs, schedule, serving, versions
from tests.fakes import Partial
from tests.gateway.calls import CALLS, Call
from tests.gateway.fakes import Answering, fill, gateway

pytestmark = pytest.mark.anyio

CLOSED_UNIONS = (
    (runs.Trigger, trainer_pb2.Trigger),
    (runs.RunState, trainer_pb2.RunState),
    (runs.RunStage, trainer_pb2.RunStage),
    (labels.ReviewReason, trainer_pb2.ReviewReason),
    (versions.VersionState, trainer_pb2.VersionState),
    (versions.HistoryAction, manifest_pb2.HistoryAction),
    (experiments.ExperimentKind, manifest_pb2.ExperimentKind),
    (schedule.ScheduleKind, scheduler_pb2.ScheduleKind),
    (serving.Stage, inference_pb2.Stage),
)


async def schema() -> dict[str, Any]:
    async with gateway() as client:
        response = await client.get("/openapi.json")
    assert response.status_code == 200
    return dict(response.json())


async def test_page_and_schema_need_no_other_host() -> None:
    async with gateway() as client:
        page = await client.get("/docs")
        script = await client.get("/docs/files/swagger-ui-bundle.js")
        same = (await client.get("/docs/openapi.json")).json()
    assert (page.status_code, script.status_code) == (200, 200)
    assert "https://" not in page.text.replace("https://www.w3.org", "")
    assert await schema() == same


async def test_every_route_is_described_and_called_by_these_tests() -> None:
    described = {(method.upper(), path) for path, item in (await schema())["paths"].items() for method in item}
    assert described == {(call.method, call.template) for call in CALLS}
    assert len(described) == 28


async def test_every_answer_has_named_fields() -> None:
    operations = [item[method] for item in (await schema())["paths"].values() for method in item]
    answers = [
        json.dumps(content["schema"])
        for operation in operations
        for response in operation["responses"].values()
        for media_type, content in response["content"].items()
        if "json" in media_type and "ndjson" not in media_type
    ]
    assert [answer for answer in answers if "$ref" not in answer] == []


async def test_body_that_may_be_missing_is_not_required() -> None:
    operations = [item["post"] for item in (await schema())["paths"].values() if "post" in item]
    optional = [o["summary"] for o in operations if not o.get("requestBody", {"required": True})["required"]]
    assert optional == ["Retrain in the background", "Bring the former champion back", "End the experiment"]


async def test_file_of_an_import_is_described() -> None:
    body = (await schema())["paths"]["/examples/import"]["post"]["requestBody"]
    assert list(body["content"]) == ["application/x-ndjson", "text/csv"]


async def test_route_is_explained_by_its_docstring() -> None:
    described = (await schema())["paths"]["/retrain"]["post"]["description"]
    assert described.startswith("Start a training run and answer at once.")


@pytest.mark.parametrize(("shown", "enum"), CLOSED_UNIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_values_on_the_page_are_those_of_the_proto(shown: Any, enum: Any) -> None:
    assert tuple(fields.short_name(name, enum.DESCRIPTOR) for name in enum.keys()) == get_args(shown)  # noqa: SIM118


def test_number_without_a_name_is_unspecified() -> None:
    assert fields.short_name(99, trainer_pb2.RunState.DESCRIPTOR) == "unspecified"


# What every call of a service can meet, and what the services say beside that, by route.
ALWAYS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.INVALID_ARGUMENT,
)
ALSO = {
    "/feedback": (grpc.StatusCode.NOT_FOUND,),
    "/review/{item_id}": (grpc.StatusCode.NOT_FOUND,),
    "/retrain": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED),
    "/retrain/runs/{run_id}": (grpc.StatusCode.NOT_FOUND,),
    "/retrain/metrics": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION),
    "/retrain/deploy": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION),
    "/retrain/rollback": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION),
    "/retrain/abtest/start": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED),
    "/retrain/abtest/stop": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION),
}
BAD_BODIES = (b"{", b"[]", b'{"nonsense": 1}')


class Aborting(Partial):
    """Ends every call with the status of the moment."""

    code = grpc.StatusCode.INTERNAL

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)

        async def abort(_request: Any, context: Any) -> None:
            await context.abort(self.code, "")

        return abort

    async def ExportExamples(self, _request: Any, context: Any) -> AsyncIterator[None]:
        await context.abort(self.code, "")
        yield

    async def ImportExamples(self, requests: AsyncIterator[Any], context: Any) -> None:
        # The trainer reads the file before it answers. If it did not, a failed write could hide its status.
        async for _request in requests:
            pass
        await context.abort(self.code, "")


async def fail(call: Call, peer: Aborting, client: httpx.AsyncClient) -> AsyncIterator[httpx.Response]:
    """Yield what a call is answered with in every way in which it can fail."""
    for code in (*ALWAYS, *ALSO.get(call.template, ())):
        peer.code = code
        yield await client.request(**call.arguments)
    yield await client.request(**{**call.arguments, "params": {"nonsense": "1"}})
    for content in BAD_BODIES if call.json is not None else ():
        yield await client.request(**{**call.arguments, "json": None, "content": content})


async def test_every_error_that_a_route_gives_is_described_and_no_other() -> None:
    given: dict[str, set[tuple[str, str]]] = {call.template: set() for call in CALLS}
    peer = Aborting()
    async with gateway(peer, peer) as client, gateway(Answering(fill), Answering(fill), max_body_bytes=1) as narrow:
        for call in CALLS:
            responses = [response async for response in fail(call, peer, client)]
            for response in [*responses, await narrow.request(**call.arguments)]:
                if response.status_code >= 400:
                    given[call.template].add((str(response.status_code), response.headers["content-type"]))
    given["/examples/import"].add(("413", "application/problem+json"))  # takes 64 MiB; has a test of its own
    given["/readyz"].add(("503", "application/json"))  # the fake's health service always serves
    assert given == await described_errors()


async def described_errors() -> dict[str, set[tuple[str, str]]]:
    return {
        path: {
            (status, media_type)
            for operation in item.values()
            for status, response in operation["responses"].items()
            for media_type in response["content"]
            if int(status) >= 400
        }
        for path, item in (await schema())["paths"].items()
    }


async def test_no_error_is_described_that_does_not_exist() -> None:
    assert "status_code" not in json.dumps(await schema())
