"""Bodies and query parameters that are refused, and what the caller is told."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from services.gateway.app import ROUTES
from services.gateway.refusals import BODY
from tests.gateway.calls import CALLS
from tests.gateway.fakes import Answering, gateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        (
            {"user_context": {"dietary_restriction": ["nut_free"]}},
            "user_context.dietary_restriction",
            "is unknown; did you mean 'dietary_restrictions'?",
        ),
        (
            {"user_context": {"dietaryRestrictions": ["nut_free"]}},
            "user_context.dietaryRestrictions",
            "is unknown; did you mean 'dietary_restrictions'?",
        ),
        (
            {"dietary_restrictions": ["nut_free"]},
            "dietary_restrictions",
            "does not belong here; put it inside 'user_context'",
        ),
        (
            {"dietary_restriction": ["nut_free"]},
            "dietary_restriction",
            "is unknown; did you mean 'dietary_restrictions' inside 'user_context'?",
        ),
        (
            {"user_context": {"max_dishes": 3}},
            "user_context.max_dishes",
            "does not belong here; put it at the top level of the body",
        ),
        (
            {"zzz": 1},
            "zzz",
            "is unknown; the fields here are text_input, query, user_context, top_k, max_dishes",
        ),
    ],
)
async def test_field_that_is_not_known_is_refused_and_the_right_one_is_named(
    body: dict[str, Any], field: str, description: str
) -> None:
    inference = Answering()
    async with gateway(inference) as client:
        response = await client.post("/enhanced-recommend", json={"text_input": "dessert", **body})
    problem = response.json()
    assert (response.status_code, problem["reason"]) == (400, "INVALID_BODY")
    assert [{"field": field, "description": description}] == problem["errors"]
    assert f"{field}: {description}" == problem["detail"]
    assert inference.requests == []


def structs_in(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.StructType]:
    if isinstance(kind, msgspec.inspect.StructType):
        yield kind
        for field in kind.fields:
            yield from structs_in(field.type)
    for member in getattr(kind, "types", ()):
        yield from structs_in(member)


def test_every_body_refuses_fields_that_it_does_not_know() -> None:
    bodies = [
        struct
        for route in ROUTES
        if (body := route.parsed_fn_signature.parameters.get(BODY))
        for struct in structs_in(msgspec.inspect.type_info(body.annotation))
    ]
    assert len(bodies) >= 11
    assert [body.cls.__name__ for body in bodies if not body.forbid_unknown_fields] == []


async def test_query_parameter_that_is_not_known_is_refused() -> None:
    calls = [call for call in CALLS if call.template not in ("/livez", "/readyz", "/health")]
    async with gateway(Answering(), Answering()) as client:
        for call in calls:
            response = await client.request(**{**call.arguments, "params": {"nonsense": "1"}})
            assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "nonsense"), call.name


async def test_very_long_name_of_a_field_is_cut() -> None:
    async with gateway(Answering()) as client:
        problem = (await client.post("/classify", json={"text": "soup", "x" * 500_000: 1})).json()
    assert problem["errors"][0]["field"] == "x" * 80


async def test_misspelt_query_parameter_is_named_with_the_right_one() -> None:
    async with gateway(trainer=Answering()) as client:
        response = await client.get("/retrain/runs", params={"limits": "5"})
    assert response.json()["errors"] == [{"field": "limits", "description": "is unknown; did you mean 'limit'?"}]


async def test_route_without_query_parameters_says_so() -> None:
    async with gateway(trainer=Answering()) as client:
        response = await client.get("/retrain/versions", params={"limt": "3"})
    assert response.json()["errors"] == [
        {"field": "limt", "description": "is unknown; there are no query parameters here"}
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "error"),
    [
        (
            "POST",
            "/retrain",
            {"trigger": "cron"},
            {"field": "trigger", "description": "use one of api_triggered, cron_triggered, manual"},
        ),
        (
            "GET",
            "/examples/export?file_format=xml",
            None,
            {"field": "file_format", "description": "use one of csv, jsonl"},
        ),
        ("POST", "/feedback", {"text": "soup"}, {"field": "labels", "description": "is missing"}),
    ],
)
async def test_value_that_is_not_allowed_is_refused_and_the_allowed_ones_are_named(
    method: str, path: str, body: Any, error: dict[str, str]
) -> None:
    async with gateway(trainer=Answering()) as client:
        response = await client.request(method, path, json=body)
    assert (400, [error]) == (response.status_code, response.json()["errors"])


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"text":' * 100_000, b'{"text": "soup", "x": ' + b"[" * 100_000])
async def test_body_that_is_nested_deeply_is_a_400(content: bytes) -> None:
    async with gateway(Answering()) as client:
        response = await client.post("/classify", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["reason"]) == (400, "INVALID_BODY")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/classify", {"texts": ["x"], "explain": True}, "explain"),
        ("/classify", {"text": "x", "explain": "yes"}, "explain"),
        ("/enhanced-recommend", {}, "text_input"),
        ("/enhanced-recommend", {"text_input": 5}, "text_input"),
        ("/enhanced-recommend", {"text_input": "x" * 10_001}, "text_input"),
        ("/enhanced-recommend", {"text_input": "x", "query": "y"}, "text_input"),
        ("/enhanced-recommend", {"text_input": "x", "top_k": 0}, "top_k"),
        ("/enhanced-recommend", {"text_input": "x", "user_context": {"dietary_restrictions": "vegan"}}, "user_context"),
        ("/classify", {}, "text"),
        ("/classify", {"text": "x", "texts": ["y"]}, "text"),
        ("/classify", {"texts": []}, "texts"),
        ("/feedback", {"text": "x"}, "labels"),
        ("/feedback", {"labels": ["a"]}, "query_id"),
        ("/retrain", {"trigger": "first_model"}, "trigger"),
        ("/retrain", {"force": "yes"}, "force"),
        ("/retrain/deploy", {"version": 0}, "version"),
    ],
)
async def test_bad_body_is_a_problem_that_names_the_field(path: str, body: dict[str, Any], field: str) -> None:
    inference, trainer = Answering(), Answering()
    async with gateway(inference, trainer) as client:
        response = await client.post(path, json=body)
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert problem["errors"][0]["field"].startswith(field) or field in problem["detail"]
    assert [] == inference.requests == trainer.requests


@pytest.mark.parametrize(
    "content",
    [b"{bad", b"", b"[]", b'"text"', b'{"text": "\xff\xfe"}', b'{"text": "\\ud800"}', b"\x00\x01", b"{" * 5000],
)
async def test_body_that_is_no_json_object_is_a_400(content: bytes) -> None:
    async with gateway(Answering()) as client:
        response = await client.post("/classify", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert "Traceback" not in response.text


async def test_body_over_the_limit_is_a_413() -> None:
    async with gateway(Answering(), max_body_bytes=1000) as client:
        response = await client.post("/classify", json={"text": "x" * 2000})
    assert (response.status_code, response.headers["content-type"]) == (413, "application/problem+json")
