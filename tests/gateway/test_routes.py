import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from google.longrunning import operations_pb2
from moodfood.inference.v1 import inference_pb2 as ipb
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as rpb
from moodfood.trainer.v1 import trainer_pb2 as tpb
from moodfood.trainer.v1 import trainer_pb2_grpc

from services.gateway.app import build_app
from services.gateway.peers import connect
from services.gateway.settings import Settings
from services.inference import errors as inference_errors
from services.inference.status import ERROR_TABLE as INFERENCE_ERRORS
from services.trainer import errors as trainer_errors
from services.trainer.api.errors import ERROR_TABLE as TRAINER_ERRORS
from services.transport.errors import ErrorTable
from services.transport.health import add_health
from services.transport.serving import build_server
from tests.fakes import Partial

pytestmark = pytest.mark.anyio

ANSWER = ipb.Classification(
    query_id="q1",
    intents=[ipb.Intent(label="goal_comfort", confidence=0.8), ipb.Intent(label="taste_rich", confidence=0.1)],
    stage=ipb.STAGE_LINEAR,
    model_version=3,
)
DISH = ipb.Recommendation(
    food_name="Dal tadka", food_category="main", food_region="South Asia", food_culture="Indian",
    food_tags=["lentils"], score=1.0, reasoning="Fits comfort (goal).", diets=["vegetarian"],
)  # fmt: skip
EXPLAINED = ipb.Classification(
    explanation=ipb.Explanation(
        label="goal_comfort",
        summary="because of soup",
        intercept=-1.5,
        grams=[ipb.GramWeight(gram="soup", kind=ipb.GRAM_KIND_WORDS, weight=2.25)],
    ),
    passed=[ipb.PassedStage(stage=ipb.STAGE_LINEAR, reason="too close")],
)
EXPLAINED.MergeFrom(ANSWER)


class Inference(Partial):
    """Answers the same to everybody, or raises what it was told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[Any] = []

    def _take(self, request: Any) -> None:
        self.requests.append(request)
        if self.error:
            raise self.error

    async def Classify(self, request: Any, context: Any) -> ipb.ClassifyResponse:
        self._take(request)
        return ipb.ClassifyResponse(classification=EXPLAINED if request.explain else ANSWER)

    async def BatchClassify(self, request: Any, context: Any) -> ipb.BatchClassifyResponse:
        self._take(request)
        return ipb.BatchClassifyResponse(classifications=[ANSWER for _ in request.texts])

    async def Recommend(self, request: Any, context: Any) -> ipb.RecommendResponse:
        self._take(request)
        return ipb.RecommendResponse(classification=ANSWER, recommendations=[DISH])

    async def GetModelStatus(self, request: Any, context: Any) -> ipb.GetModelStatusResponse:
        self._take(request)
        return ipb.GetModelStatusResponse(model="m", version=3, label_count=138, stages=[ipb.STAGE_LINEAR])


class Trainer(Partial):
    """Accepts everything, or raises what it was told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[Any] = []

    def _take(self, request: Any) -> None:
        self.requests.append(request)
        if self.error:
            raise self.error

    async def Retrain(self, request: Any, context: Any) -> operations_pb2.Operation:
        self._take(request)
        operation = operations_pb2.Operation(name="operations/run-1")
        operation.metadata.Pack(tpb.TrainingRun(run_id="run-1", state=tpb.RUN_STATE_RUNNING))
        return operation

    async def SubmitFeedback(self, request: Any, context: Any) -> tpb.SubmitFeedbackResponse:
        self._take(request)
        return tpb.SubmitFeedbackResponse(feedback_id="f1")

    async def RollbackModel(self, request: Any, context: Any) -> tpb.RollbackModelResponse:
        self._take(request)
        return tpb.RollbackModelResponse(champion=rpb.ChampionAlias(version=2))

    async def GetRetrainStatus(self, request: Any, context: Any) -> tpb.GetRetrainStatusResponse:
        self._take(request)
        return tpb.GetRetrainStatusResponse(next_retrain_recommended="Not yet")


@asynccontextmanager
async def gateway(
    inference: Inference | None = None, trainer: Trainer | None = None, max_body_bytes: int = 1_000_000
) -> AsyncIterator[httpx.AsyncClient]:
    """The real application over real channels; a service that is None is away."""
    servers, addresses = [], []
    served: tuple[tuple[Any, Any, ErrorTable], ...] = (
        (inference, inference_pb2_grpc.add_InferenceServiceServicer_to_server, INFERENCE_ERRORS),
        (trainer, trainer_pb2_grpc.add_TrainerServiceServicer_to_server, TRAINER_ERRORS),
    )
    for servicer, add, errors in served:
        if servicer is None:
            addresses.append("127.0.0.1:1")
            continue
        server = build_server(errors)
        add(servicer, server)
        await add_health(server, [])
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    settings = Settings(inference_address=addresses[0], trainer_address=addresses[1], query_deadline_seconds=2.0)
    app = build_app(lambda: connect(settings), max_body_bytes)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    for server in servers:
        await server.stop(None)


async def test_recommendation_has_every_field_of_the_contract() -> None:
    inference = Inference()
    body = {"text_input": "comfort", "user_context": {"weather": "cold", "dietary_restrictions": ["vegan"]}}
    async with gateway(inference) as client:
        response = await client.post("/enhanced-recommend", json=body)
    answer = response.json()
    assert response.status_code == 200
    assert tuple(
        answer[field] for field in ("primary_intent", "confidence", "method", "model_version", "query_id")
    ) == ("goal_comfort", 0.8, "ml_classifier", 3, "q1")
    assert answer["all_intents"] == [["goal_comfort", 0.8], ["taste_rich", 0.1]]
    assert answer["processing_time"] > 0
    assert {
        "food_name", "food_category", "food_region", "food_culture", "food_tags", "score", "reasoning"
    } <= answer["recommendations"][0].keys()  # fmt: skip
    assert inference.requests[0].context.dietary_restrictions == ["vegan"]


async def test_query_is_accepted_for_text_input() -> None:
    inference = Inference()
    async with gateway(inference) as client:
        response = await client.post("/enhanced-recommend", json={"query": "soup"})
    assert (response.status_code, inference.requests[0].text) == (200, "soup")


async def test_classify_takes_one_text_or_several() -> None:
    async with gateway(Inference()) as client:
        one = (await client.post("/classify", json={"text": "soup"})).json()
        many = (await client.post("/classify", json={"texts": ["soup", "cake"]})).json()
    assert one["primary_intent"] == "goal_comfort"
    assert len(many["results"]) == 2
    assert "recommendations" not in one


async def test_explanation_comes_only_when_asked_for() -> None:
    inference = Inference()
    async with gateway(inference) as client:
        explained = (await client.post("/classify", json={"text": "soup", "explain": True})).json()
        plain = (await client.post("/classify", json={"text": "soup"})).json()
    assert [request.explain for request in inference.requests] == [True, False]
    assert explained["explanation"] == {
        "label": "goal_comfort",
        "summary": "because of soup",
        "intercept": -1.5,
        "grams": [{"gram": "soup", "kind": "words", "weight": 2.25}],
    }
    assert explained["passed"] == [{"method": "ml_classifier", "reason": "too close"}]
    assert not {"explanation", "passed"} & plain.keys()


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
    inference, trainer = Inference(), Trainer()
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
    async with gateway(Inference()) as client:
        response = await client.post("/classify", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert "Traceback" not in response.text


async def test_body_over_the_limit_is_a_413() -> None:
    async with gateway(Inference(), max_body_bytes=1000) as client:
        response = await client.post("/classify", json={"text": "x" * 2000})
    assert (response.status_code, response.headers["content-type"]) == (413, "application/problem+json")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("DELETE", "/retrain", 405)])
async def test_unknown_path_and_method_are_problems_too(method: str, path: str, status: int) -> None:
    async with gateway() as client:
        response = await client.request(method, path)
    assert (status, "application/problem+json") == (response.status_code, response.headers["content-type"])


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (inference_errors.InvalidQuery("text", "is empty"), 400, "INVALID_QUERY"),
        (inference_errors.ModelVersionNotFound(9), 404, "MODEL_VERSION_NOT_FOUND"),
        (inference_errors.ModelRejected(9, "probe", "differs"), 409, "MODEL_REJECTED"),
        (inference_errors.ReloadInProgress(), 409, "RELOAD_IN_PROGRESS"),
        (inference_errors.NothingLoaded(), 503, "NOTHING_LOADED"),
        (RuntimeError("secret /etc/path"), 500, "INTERNAL"),
    ],
)
async def test_status_of_inference_becomes_one_http_status(error: Exception, status: int, reason: str) -> None:
    async with gateway(Inference(error)) as client:
        response = await client.post("/classify", json={"text": "x"})
    assert (status, reason) == (response.status_code, response.json()["reason"])
    assert "secret" not in response.text


async def test_field_of_inference_gets_its_name_in_rest() -> None:
    async with gateway(Inference(inference_errors.InvalidQuery("context.mood", "is too long"))) as client:
        problem = (await client.post("/enhanced-recommend", json={"text_input": "x"})).json()
    assert problem["errors"][0]["field"] == "user_context.mood"
    assert problem["detail"] == "user_context.mood: is too long"


async def test_retrain_starts_with_and_without_a_body() -> None:
    trainer = Trainer()
    async with gateway(trainer=trainer) as client:
        bare = await client.post("/retrain")
        asked = await client.post("/retrain", json={"trigger": "cron_triggered", "force": True})
    assert (bare.status_code, asked.status_code) == (200, 200)
    assert {
        "status": "started",
        "message": "Model retraining started in background",
        "operation": "operations/run-1",
    }.items() <= bare.json().items()
    assert [r.trigger for r in trainer.requests] == [tpb.TRIGGER_API_TRIGGERED, tpb.TRIGGER_CRON_TRIGGERED]


async def test_second_retrain_is_a_conflict_that_names_the_running_operation() -> None:
    async with gateway(trainer=Trainer(trainer_errors.RetrainInProgress("operations/run-1"))) as client:
        response = await client.post("/retrain")
    assert (response.status_code, response.json()["operation"]) == (409, "operations/run-1")


async def test_service_that_is_away_is_a_503_without_addresses() -> None:
    async with gateway() as client:
        for path, body in (("/classify", {"text": "x"}), ("/retrain", {}), ("/retrain/rollback", {})):
            response = await client.post(path, json=body)
            assert (response.status_code, response.json()["reason"]) == (503, "UNAVAILABLE")
            assert "127.0.0.1" not in response.text


async def test_service_that_hangs_is_a_504() -> None:
    class Hanging(Inference):
        async def Classify(self, request: Any, context: Any) -> ipb.ClassifyResponse:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
            raise AssertionError

    async with gateway(Hanging()) as client:
        response = await client.post("/classify", json={"text": "x"})
    assert response.status_code == 504


async def test_health_answers_with_the_same_fields_in_every_state() -> None:
    async with gateway(Inference(), Trainer()) as client:
        good = await client.get("/health")
        ready = await client.get("/readyz")
    async with gateway(Inference()) as client:
        without_trainer = await client.get("/health")
    async with gateway() as client:
        nobody = await client.get("/health")
        alive, not_ready = await client.get("/livez"), await client.get("/readyz")
    assert [each.status_code for each in (good, without_trainer, nobody)] == [200, 200, 503]
    assert [each.json()["status"] for each in (good, without_trainer, nobody)] == ["healthy", "degraded", "unhealthy"]
    assert good.json().keys() == nobody.json().keys()
    assert good.json()["enhanced_classifier"] == {
        "ml_classifier_loaded": True,
        "ml_labels_count": 138,
        "transformer_loaded": False,
        "ml_classifier_available": True,
    }
    assert [ready.status_code, alive.status_code, not_ready.status_code] == [200, 200, 503]


async def test_documentation_needs_no_other_host() -> None:
    async with gateway() as client:
        page = await client.get("/docs")
        script = await client.get("/docs/files/swagger-ui-bundle.js")
        schema = (await client.get("/docs/openapi.json")).json()
    assert (page.status_code, script.status_code) == (200, 200)
    assert "https://" not in page.text.replace("https://www.w3.org", "")
    assert {
        "/retrain", "/retrain/status", "/health", "/enhanced-recommend", "/classify", "/feedback", "/retrain/runs",
        "/retrain/runs/{run_id}", "/retrain/metrics", "/retrain/versions", "/retrain/rollback", "/retrain/deploy",
        "/model/status", "/logging/stats",
    } <= schema["paths"].keys()  # fmt: skip
    assert "examples" in json.dumps(schema)
