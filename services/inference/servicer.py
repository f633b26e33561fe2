"""Translates between the proto contract and the domain; every method reads: translate in, call, translate out."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc

from services.inference.classifiers.cascade import Outcome, StageKind
from services.inference.classifiers.explanation import Explanation
from services.inference.dishes.recommender import RankedDish, Recommender
from services.inference.errors import InvalidQuery
from services.inference.models.holder import ModelHolder
from services.inference.models.registry import RegistryReader
from services.inference.queries.answering import Answered, Answering
from services.inference.queries.experiment import Trials
from services.inference.queries.query_log import QueryLog
from services.language.text import describe_problem

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name

MAX_BATCH_TEXTS = 256
MAX_TOP_K = 100
MAX_DISHES = 50
MAX_CONTEXT_CHARS = 200
MAX_KEY_CHARS = 128
DEFAULT_TOP_K = 5
DEFAULT_DISHES = 5

_STAGES = {
    StageKind.LINEAR: pb.STAGE_LINEAR,
    StageKind.TRANSFORMER: pb.STAGE_TRANSFORMER,
    StageKind.KEYWORD: pb.STAGE_KEYWORD,
}

_SUMMARIES = {
    StageKind.LINEAR: "The linear stage answered {0!r}; these grams are what it added up.",
    StageKind.TRANSFORMER: "The transformer stage answered {0!r}, weighing the whole sentence beside these grams.",
    StageKind.KEYWORD: "The keyword stage answered {0!r}; these grams are what the linear stage saw in it.",
}


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """`moodfood.inference.v1.InferenceService`."""

    def __init__(
        self,
        model: str,
        holder: ModelHolder,
        repository: RegistryReader,
        recommender: Recommender,
        query_log: QueryLog,
        trials: Trials,
    ) -> None:
        self._model = model
        self._holder = holder
        self._repository = repository
        self._recommender = recommender
        self._query_log = query_log
        self._trials = trials
        self._answering = Answering(holder, trials, query_log)

    async def close(self) -> None:
        """Log what is still waiting to be logged."""
        await self._answering.close()

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        """Rank the labels for one query."""
        check_query(request.text)
        top_k = bounded(request.top_k, DEFAULT_TOP_K, MAX_TOP_K, "top_k")
        key = caller(request.caller_key, context)
        (answer,) = await self._classify([request.text], top_k, key, explain=request.explain)
        return pb.ClassifyResponse(classification=answer)

    async def BatchClassify(self, request: pb.BatchClassifyRequest, context: Any) -> pb.BatchClassifyResponse:
        """Rank the labels for several queries."""
        if not 1 <= len(request.texts) <= MAX_BATCH_TEXTS:
            raise InvalidQuery("texts", f"has {len(request.texts)} entries; send 1 to {MAX_BATCH_TEXTS}")
        for index, text in enumerate(request.texts):
            check_query(text, f"texts[{index}]")
        top_k = bounded(request.top_k, DEFAULT_TOP_K, MAX_TOP_K, "top_k")
        key = caller(request.caller_key, context)
        return pb.BatchClassifyResponse(classifications=await self._classify(list(request.texts), top_k, key))

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:
        """Rank the labels, then the dishes."""
        check_query(request.text)
        top_k = bounded(request.top_k, DEFAULT_TOP_K, MAX_TOP_K, "top_k")
        max_dishes = bounded(request.max_dishes, DEFAULT_DISHES, MAX_DISHES, "max_dishes")
        user_context = checked_context(request.context)
        # Known before the query is answered and logged, so that a bad restriction leaves no trace.
        self._recommender.check_restrictions(request.context.dietary_restrictions)
        (answer,) = await self._answering.answer([request.text], top_k, caller(request.caller_key, context))
        dishes = self._recommender.recommend(
            request.text, answer.outcome.intents, user_context, request.context.dietary_restrictions, max_dishes
        )
        return pb.RecommendResponse(
            classification=classification(answer), recommendations=[recommendation(each) for each in dishes]
        )

    async def ReloadModel(self, request: pb.ReloadModelRequest, context: Any) -> pb.ReloadModelResponse:
        """Swap to a version, or say why not."""
        for field in ("version", "generation"):
            if getattr(request, field) < 0:
                raise InvalidQuery(field, "is negative; versions and generations start at 1")
        if request.phase not in pb.ReloadPhase.values():
            raise InvalidQuery("phase", "is none of prepare and commit; leave it out for both")
        preparing = request.phase == pb.RELOAD_PHASE_PREPARE
        reload = self._holder.prepare if preparing else self._holder.reload
        reloaded = await reload(request.version, request.generation)
        return pb.ReloadModelResponse(
            version=reloaded.version,
            previous_version=reloaded.previous_version,
            already_serving=reloaded.already_serving,
            load_time=duration(reloaded.load_seconds),
            prepared=reloaded.prepared,
        )

    async def GetModelStatus(self, request: pb.GetModelStatusRequest, context: Any) -> pb.GetModelStatusResponse:
        """Say what is serving."""
        servable, alias = self._holder.current, self._repository.champion()
        return pb.GetModelStatusResponse(
            model=self._model,
            version=servable.version,
            generation=servable.generation,
            champion_version=alias.version if alias else 0,
            loaded_at=timestamp(servable.loaded_at) if servable.loaded_at else None,
            stages=[_STAGES[stage.kind] for stage in servable.stages],
            label_count=servable.label_count,
            last_reload_error=self._holder.last_error,
            min_confidence=servable.min_confidence,
            transformer_missing=servable.transformer_missing,
            warm_versions=self._holder.warm.versions,
            experiment_id=trial.experiment_id if (trial := self._trials.current) else "",
        )

    async def GetQueryLogStats(self, request: pb.GetQueryLogStatsRequest, context: Any) -> pb.GetQueryLogStatsResponse:
        """Say how the query log is doing."""
        stats = self._query_log.stats()
        last_written_at = stats.last_written_at
        return pb.GetQueryLogStatsResponse(
            written=stats.written,
            dropped=stats.dropped,
            pending=stats.pending,
            file_bytes=stats.file_bytes,
            rotated_files=stats.rotated_files,
            last_written_at=timestamp(datetime.fromtimestamp(last_written_at, UTC)) if last_written_at else None,
        )

    async def _classify(
        self, texts: Sequence[str], top_k: int, caller_key: str, *, explain: bool = False
    ) -> list[pb.Classification]:
        answers = await self._answering.answer(texts, top_k, caller_key)
        classifications = [classification(each) for each in answers]
        if explain:
            for each, message in zip(answers, classifications, strict=True):
                explainer = each.servable.explainer
                if explainer is None:
                    continue
                # The first one opens a session, which takes tens of milliseconds.
                explained = await asyncio.to_thread(explainer.explain, each.text, each.outcome.intents[0].label)
                if explained is not None:
                    message.explanation.CopyFrom(explanation(explained, each.outcome))
        return classifications


def classification(answered: Answered) -> pb.Classification:
    """Translate one answer."""
    outcome = answered.outcome
    return pb.Classification(
        query_id=answered.query_id,
        intents=[pb.Intent(label=each.label, confidence=each.confidence) for each in outcome.intents],
        stage=_STAGES[outcome.kind],
        model_version=answered.servable.version,
        passed=[pb.PassedStage(stage=_STAGES[each.kind], reason=each.reason) for each in outcome.passed],
        latency=duration(answered.seconds),
    )


def caller(asked: str, context: Any) -> str:
    """Return who asks: the key that was sent, else the host of the caller's address.

    Raises:
        InvalidQuery: the key is too long.

    """
    if len(asked) > MAX_KEY_CHARS:
        raise InvalidQuery("caller_key", f"is longer than {MAX_KEY_CHARS} characters")
    return asked or (context.peer().rpartition(":")[0] if context is not None else "")


def explanation(explained: Explanation, outcome: Outcome) -> pb.Explanation:
    """Translate what spoke for the best label."""
    message = pb.Explanation(
        label=explained.label, intercept=explained.intercept, summary=_SUMMARIES[outcome.kind].format(explained.label)
    )
    for each in explained.grams:
        kind = pb.GRAM_KIND_CHARACTERS if each.characters else pb.GRAM_KIND_WORDS
        message.grams.add(gram=each.gram, kind=kind, weight=each.weight)
    return message


def check_query(text: str, field: str = "text") -> None:
    """Refuse a text that cannot be a query.

    Raises:
        InvalidQuery: names the field and says what is wrong.

    """
    if problem := describe_problem(text):
        raise InvalidQuery(field, problem)


def bounded(asked: int, default: int, highest: int, field: str) -> int:
    """Return the asked number, or the default for 0.

    Raises:
        InvalidQuery: negative or above the highest.

    """
    if not 0 <= asked <= highest:
        raise InvalidQuery(field, f"is {asked}; use 1 to {highest}, or 0 for {default}")
    return asked or default


def checked_context(context: pb.UserContext) -> dict[str, str]:
    """Return the free-text fields of the context that are set.

    Raises:
        InvalidQuery: a field is too long.

    """
    said = {"time_of_day": context.time_of_day, "weather": context.weather, "mood": context.mood}
    for field, text in said.items():
        if len(text) > MAX_CONTEXT_CHARS:
            raise InvalidQuery(f"context.{field}", f"is longer than {MAX_CONTEXT_CHARS} characters")
    return {field: text for field, text in said.items() if text}


def recommendation(ranked: RankedDish) -> pb.Recommendation:
    """Translate one dish."""
    dish = ranked.dish
    return pb.Recommendation(
        food_name=dish.name,
        food_category=dish.category,
        food_region=dish.region,
        food_culture=dish.culture,
        food_tags=dish.tags,
        score=round(ranked.score, 4),
        reasoning=ranked.reasoning,
        diets=sorted(dish.diets),
    )


def duration(seconds: float) -> duration_pb2.Duration:
    """Translate a time span."""
    return duration_pb2.Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """Translate a UTC moment."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp
