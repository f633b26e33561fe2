from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.classifiers.keywords import NO_MATCH, KeywordClassifier
from services.inference.classifiers.linear import NO_WORDS
from services.inference.classifiers.taxonomy import load_taxonomy
from services.inference.dishes.catalogue import load_catalogue
from services.inference.dishes.recommender import Recommender
from services.inference.error_table import ERROR_TABLE
from services.inference.models.holder import ModelHolder
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.queries.experiment import ExperimentFollower
from services.inference.servicer import InferenceServicer
from services.language.encoder import Encoder, load_encoder
from services.repository.opening import open_repository
from tests.conftest import ENCODER, SHIPPED
from tests.fakes import running
from tests.queries import write_to
from tests.registries import MODEL

pytestmark = pytest.mark.anyio


@dataclass
class Service:
    stub: Any
    channel: grpc.aio.Channel
    query_log: Path


@asynccontextmanager
async def inference(
    models: Path, folder: Path, encoder: Encoder | None = None, data: Path | None = SHIPPED
) -> AsyncIterator[Service]:
    taxonomy = load_taxonomy(data / "taxonomy" / "mood_food_taxonomy.json" if data else None)
    registry = RegistryReader(open_repository("", models, MODEL), MODEL)
    keyword_stage = Stage(StageKind.KEYWORD, KeywordClassifier(taxonomy.entries.values()))
    holder = ModelHolder(registry, Loader(registry, keyword_stage, len(taxonomy.entries), encoder), 600.0)
    await holder.converge()
    writer = write_to(folder)
    recommender = Recommender(taxonomy, load_catalogue(data / "catalogue" / "dishes.json" if data else None))
    servicer = InferenceServicer(MODEL, holder, registry, recommender, writer, ExperimentFollower(registry, holder))
    add = inference_pb2_grpc.add_InferenceServiceServicer_to_server
    async with running(servicer, add, ERROR_TABLE) as address, grpc.aio.insecure_channel(address) as channel:
        yield Service(inference_pb2_grpc.InferenceServiceStub(channel), channel, folder / "query_logs.jsonl")
    writer.close()


def details(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str], list[str]]:
    """Return reason, metadata and the fields at fault."""
    metadata = error.trailing_metadata()
    assert metadata is not None
    packed = dict(metadata)["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(info) or detail.Unpack(request)
    assert info.domain == "moodfood"
    return info.reason, dict(info.metadata), [each.field for each in request.field_violations]


async def test_answer_carries_version_stage_and_query_id_and_is_logged(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path) as service:
        answer = (await service.stub.Classify(pb.ClassifyRequest(text="chocolate please", top_k=2))).classification
    assert (
        answer.intents[0].label,
        answer.model_version,
        answer.stage,
        len(answer.intents),
    ) == ("flavor_chocolate", 1, pb.STAGE_LINEAR, 2)
    assert answer.query_id in service.query_log.read_text()


async def test_batch_answers_equal_single_answers(models: Path, tmp_path: Path) -> None:
    texts = ["rainy day", "pizza tonight", "spicy!", "zzz qqq"]
    async with inference(models, tmp_path) as service:
        batch = await service.stub.BatchClassify(pb.BatchClassifyRequest(texts=texts))
        single = [await service.stub.Classify(pb.ClassifyRequest(text=text)) for text in texts]
    assert [each.intents for each in batch.classifications] == [each.classification.intents for each in single]


async def test_keyword_stage_answers_while_no_model_is_loaded(tmp_path: Path) -> None:
    async with inference(tmp_path, tmp_path) as service:
        answer = (await service.stub.Classify(pb.ClassifyRequest(text="rainy and cozy"))).classification
        nonsense = (await service.stub.Classify(pb.ClassifyRequest(text="qwrtz"))).classification
    assert (answer.model_version, answer.stage) == (0, pb.STAGE_KEYWORD)
    assert {"weather_rainy", "atmosphere_cozy"} == {intent.label for intent in answer.intents}
    assert [(intent.label, intent.confidence) for intent in nonsense.intents] == [("unknown", 0.0)]


@pytest.mark.parametrize(
    ("method", "request_message", "field"),
    [
        ("Classify", pb.ClassifyRequest(text=""), "text"),
        ("Classify", pb.ClassifyRequest(text=" \t"), "text"),
        ("Classify", pb.ClassifyRequest(text="a\0b"), "text"),
        ("Classify", pb.ClassifyRequest(text="x" * 10_001), "text"),
        ("Classify", pb.ClassifyRequest(text="x", top_k=-1), "top_k"),
        ("Classify", pb.ClassifyRequest(text="x", top_k=101), "top_k"),
        ("BatchClassify", pb.BatchClassifyRequest(), "texts"),
        ("BatchClassify", pb.BatchClassifyRequest(texts=["x"] * 257), "texts"),
        ("BatchClassify", pb.BatchClassifyRequest(texts=["x", ""]), "texts[1]"),
        ("Recommend", pb.RecommendRequest(text="x", max_dishes=51), "max_dishes"),
        (
            "Recommend",
            pb.RecommendRequest(text="x", context=pb.UserContext(dietary_restrictions=["paleo"])),
            "context.dietary_restrictions[0]",
        ),
        ("Recommend", pb.RecommendRequest(text="x", context=pb.UserContext(mood="m" * 201)), "context.mood"),
        ("ReloadModel", pb.ReloadModelRequest(version=-1), "version"),
    ],
)
async def test_bad_input_names_its_field_and_is_not_logged(
    models: Path, tmp_path: Path, method: str, request_message: Any, field: str
) -> None:
    async with inference(models, tmp_path) as service:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await getattr(service.stub, method)(request_message)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert ("INVALID_QUERY", {}, [field]) == details(refusal.value)
    assert service.query_log.read_text() == ""


async def test_bytes_that_are_no_message_are_an_invalid_argument(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path) as service:
        garbage: Any = service.channel.unary_unary("/moodfood.inference.v1.InferenceService/Classify")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await garbage(b"\xff\xff\xff\xff garbage")
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details(refusal.value)[0] == "MALFORMED_REQUEST"


async def test_reload_says_which_check_failed_and_serving_goes_on(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path) as service:
        (models / MODEL / "2" / "model.onnx").write_bytes(b"x")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await service.stub.ReloadModel(pb.ReloadModelRequest(version=2))
        answer = await service.stub.Classify(pb.ClassifyRequest(text="pizza"))
        status = await service.stub.GetModelStatus(pb.GetModelStatusRequest())
    assert refusal.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert details(refusal.value) == ("MODEL_REJECTED", {"version": "2", "check": "size"}, [])
    assert (answer.classification.model_version, status.version) == (1, 1)
    assert "size" in status.last_reload_error


async def test_version_that_does_not_exist_is_not_found(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path) as service:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await service.stub.ReloadModel(pb.ReloadModelRequest(version=99))
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


async def test_dietary_restriction_holds_over_the_wire(models: Path, tmp_path: Path) -> None:
    request = pb.RecommendRequest(
        text="cheesy pasta", context=pb.UserContext(dietary_restrictions=["Vegan"]), max_dishes=50
    )
    async with inference(models, tmp_path) as service:
        answer = await service.stub.Recommend(request)
    assert answer.recommendations
    assert all("vegan" in dish.diets for dish in answer.recommendations)


async def test_service_without_taxonomy_and_catalogue_classifies_and_recommends_no_dish(
    models: Path, tmp_path: Path
) -> None:
    async with inference(models, tmp_path, data=None) as service:
        known = await service.stub.Recommend(pb.RecommendRequest(text="chocolate please"))
        unknown = (await service.stub.Classify(pb.ClassifyRequest(text="!!!"))).classification
    assert (known.classification.intents[0].label, list(known.recommendations)) == ("flavor_chocolate", [])
    assert (unknown.intents[0].label, unknown.stage) == ("unknown", pb.STAGE_KEYWORD)
    assert [(passed.stage, passed.reason) for passed in unknown.passed] == [
        (pb.STAGE_LINEAR, NO_WORDS),
        (pb.STAGE_KEYWORD, NO_MATCH),
    ]


async def test_service_without_anything_answers_unknown(tmp_path: Path) -> None:
    async with inference(tmp_path, tmp_path, data=None) as service:
        answer = await service.stub.Recommend(pb.RecommendRequest(text="soup"))
        status = await service.stub.GetModelStatus(pb.GetModelStatusRequest())
    assert (answer.classification.intents[0].label, list(answer.recommendations)) == ("unknown", [])
    assert (status.version, status.label_count) == (0, 0)


async def test_escalated_query_is_answered_by_the_transformer_stage_and_says_why(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path, load_encoder(ENCODER)) as service:
        status = await service.stub.GetModelStatus(pb.GetModelStatusRequest())
        answer = (await service.stub.Classify(pb.ClassifyRequest(text="food for a wet evening"))).classification
    assert list(status.stages) == [pb.STAGE_LINEAR, pb.STAGE_TRANSFORMER, pb.STAGE_KEYWORD]
    assert status.transformer_missing == ""
    assert answer.stage in {pb.STAGE_TRANSFORMER, pb.STAGE_KEYWORD}
    assert [each.stage for each in answer.passed][:1] == [pb.STAGE_LINEAR]


async def test_without_an_encoder_the_linear_stage_answers_alone_and_status_says_so(
    models: Path, tmp_path: Path
) -> None:
    async with inference(models, tmp_path) as service:
        status = await service.stub.GetModelStatus(pb.GetModelStatusRequest())
        answer = (await service.stub.Classify(pb.ClassifyRequest(text="food for a wet evening"))).classification
    assert list(status.stages) == [pb.STAGE_LINEAR, pb.STAGE_KEYWORD]
    assert "encoder" in status.transformer_missing
    assert pb.STAGE_TRANSFORMER not in {answer.stage, *(each.stage for each in answer.passed)}


async def test_explanation_names_the_words_that_spoke_for_the_answer(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path) as service:
        request = pb.ClassifyRequest(text="chocolate please", explain=True)
        answer = (await service.stub.Classify(request)).classification
        plain = (await service.stub.Classify(pb.ClassifyRequest(text="chocolate please"))).classification
    words = {each.gram: each.weight for each in answer.explanation.grams if each.kind == pb.GRAM_KIND_WORDS}
    assert answer.explanation.label == "flavor_chocolate"
    assert words["chocolate"] > 0
    assert "linear stage" in answer.explanation.summary
    assert not plain.HasField("explanation")


async def test_unknown_cannot_be_explained_and_is_still_answered(models: Path, tmp_path: Path) -> None:
    async with inference(models, tmp_path) as service:
        answer = (await service.stub.Classify(pb.ClassifyRequest(text="!!!", explain=True))).classification
    assert (answer.intents[0].label, answer.HasField("explanation")) == ("unknown", False)
