"""`moodfood.inference.v1.InferenceService`: each call checks the request, calls one function, translates the result."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from moodfood.inference.v1 import inference_pb2 as pb
from moodfood.inference.v1 import inference_pb2_grpc

from services.inference import request_checks, responses
from services.inference.dishes.recommender import Recommender
from services.inference.models.holder import ModelHolder
from services.inference.models.registry import RegistryReader
from services.inference.queries.answering import Answerer
from services.inference.queries.delivery import Deliveries
from services.inference.queries.experiment import ExperimentFollower
from services.inference.queries.query_record import AnsweredQuery
from services.inference.queries.query_writer import QueryWriter

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """The calls of InferenceService. The proto says what each call does."""

    def __init__(
        self,
        model: str,
        holder: ModelHolder,
        registry: RegistryReader,
        recommender: Recommender,
        query_writer: QueryWriter,
        experiments: ExperimentFollower,
    ) -> None:
        self._model = model
        self._holder = holder
        self._registry = registry
        self._recommender = recommender
        self._query_writer = query_writer
        self._experiments = experiments
        self._answerer = Answerer(holder, experiments, query_writer)
        self._deliveries = Deliveries(query_writer)

    def end_streams(self) -> None:
        """End the streams to the trainer now. Call it before the server stops, which waits for calls in flight."""
        self._deliveries.end()

    async def close(self) -> None:
        """Wait, at most one second, until the queries that are already answered are in the queue of the writer."""
        await self._answerer.settle()

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        request_checks.check_query(request.text)
        (query,) = await self._answer([request.text], request, context)
        classification = responses.to_classification(query)
        if request.explain:
            await _explain(query, classification)
        return pb.ClassifyResponse(classification=classification)

    async def BatchClassify(self, request: pb.BatchClassifyRequest, context: Any) -> pb.BatchClassifyResponse:
        request_checks.check_batch(request.texts)
        queries = await self._answer(list(request.texts), request, context)
        return pb.BatchClassifyResponse(classifications=[responses.to_classification(query) for query in queries])

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:
        request_checks.check_query(request.text)
        max_dishes = request_checks.read_max_dishes(request.max_dishes)
        user_context = request_checks.read_context(request.context)
        # Checked before the query is answered, so that a request with an unknown diet is not logged.
        diets = self._recommender.catalogue.resolve_diets(request.context.dietary_restrictions)
        (query,) = await self._answer([request.text], request, context)
        dishes = self._recommender.recommend(request.text, query.answer.intents, user_context, diets, max_dishes)
        return pb.RecommendResponse(
            classification=responses.to_classification(query),
            recommendations=[responses.to_recommendation(dish) for dish in dishes],
        )

    async def ReloadModel(self, request: pb.ReloadModelRequest, context: Any) -> pb.ReloadModelResponse:
        request_checks.check_reload(request)
        preparing = request.phase == pb.RELOAD_PHASE_PREPARE
        reload = self._holder.prepare if preparing else self._holder.reload
        return responses.to_reload_response(await reload(request.version, request.generation))

    async def GetModelStatus(self, request: pb.GetModelStatusRequest, context: Any) -> pb.GetModelStatusResponse:
        servable, alias, experiment = self._holder.current, self._registry.alias, self._experiments.current
        return pb.GetModelStatusResponse(
            model=self._model,
            version=servable.version,
            generation=servable.generation,
            champion_version=alias.version if alias else 0,
            loaded_at=responses.to_timestamp(servable.loaded_at) if servable.loaded_at else None,
            stages=[responses.STAGES[stage.kind] for stage in servable.stages],
            label_count=servable.label_count,
            last_reload_error=self._holder.last_error or self._registry.problem,
            min_confidence=servable.min_confidence,
            transformer_missing=servable.transformer_missing,
            warm_versions=self._holder.warm.versions,
            experiment_id=experiment.experiment_id if experiment else "",
        )

    async def GetQueryLogStats(self, request: pb.GetQueryLogStatsRequest, context: Any) -> pb.GetQueryLogStatsResponse:
        return responses.to_query_log_response(self._query_writer.stats())

    async def CollectQueryRecords(
        self, request_iterator: AsyncIterator[pb.CollectQueryRecordsRequest], context: Any
    ) -> AsyncIterator[pb.CollectQueryRecordsResponse]:
        # So the caller knows that the replica is there, also while there is nothing to collect.
        await context.send_initial_metadata(())
        async for batch in self._deliveries.deliver(request_iterator):
            yield responses.to_collect_response(batch)

    async def ForgetQueryRecords(
        self, request: pb.ForgetQueryRecordsRequest, context: Any
    ) -> pb.ForgetQueryRecordsResponse:
        doomed = request_checks.read_doomed(request)
        await self._answerer.settle()
        return responses.to_forget_response(await asyncio.wrap_future(self._query_writer.forget(doomed)))

    async def _answer(
        self,
        texts: Sequence[str],
        request: pb.ClassifyRequest | pb.BatchClassifyRequest | pb.RecommendRequest,
        context: Any,
    ) -> list[AnsweredQuery]:
        top_k = request_checks.read_top_k(request.top_k)
        caller_key = request_checks.read_caller_key(request.caller_key, context)
        return await self._answerer.answer(texts, top_k, caller_key)


async def _explain(query: AnsweredQuery, classification: pb.Classification) -> None:
    explainer = query.servable.explainer
    if explainer is None:
        return
    # The first explanation of a version opens a session, which takes tens of milliseconds.
    explained = await asyncio.to_thread(explainer.explain, query.text, query.answer.intents[0].label)
    if explained is not None:
        classification.explanation.CopyFrom(responses.to_explanation(explained, query.answer.kind))
