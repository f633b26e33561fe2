"""Translates answers, reload results and statistics into messages of the proto."""

from datetime import UTC, datetime

from google.protobuf import duration_pb2, timestamp_pb2
from moodfood.inference.v1 import inference_pb2 as pb

from services.inference.classifiers.cascade import StageKind
from services.inference.classifiers.explanation import Explanation
from services.inference.dishes.recommender import RankedDish
from services.inference.models.holder import ReloadResult
from services.inference.queries.query_record import AnsweredQuery
from services.inference.queries.query_writer import Forgotten, QueryLogStats
from services.inference.queries.spool import Batch

STAGES = {
    StageKind.LINEAR: pb.STAGE_LINEAR,
    StageKind.TRANSFORMER: pb.STAGE_TRANSFORMER,
    StageKind.KEYWORD: pb.STAGE_KEYWORD,
}

_SUMMARIES = {
    StageKind.LINEAR: "The linear stage answered {0!r}; it adds up the weights of these n-grams.",
    StageKind.TRANSFORMER: "The transformer stage answered {0!r}; it uses the whole sentence as well as these n-grams.",
    StageKind.KEYWORD: "The keyword stage answered {0!r}; these n-grams show how the linear stage would score it.",
}


def to_classification(query: AnsweredQuery) -> pb.Classification:
    """Translate the answer to one query."""
    answer = query.answer
    return pb.Classification(
        query_id=query.query_id,
        intents=[pb.Intent(label=intent.label, confidence=intent.confidence) for intent in answer.intents],
        stage=STAGES[answer.kind],
        model_version=query.servable.version,
        passed=[pb.PassedStage(stage=STAGES[passed.kind], reason=passed.reason) for passed in answer.passed],
        latency=to_duration(query.seconds),
    )


def to_explanation(explained: Explanation, answered_by: StageKind) -> pb.Explanation:
    """Translate an explanation, and say in its summary which stage answered."""
    message = pb.Explanation(
        label=explained.label, intercept=explained.intercept, summary=_SUMMARIES[answered_by].format(explained.label)
    )
    for gram in explained.grams:
        kind = pb.GRAM_KIND_CHARACTERS if gram.characters else pb.GRAM_KIND_WORDS
        message.grams.add(gram=gram.gram, kind=kind, weight=gram.weight)
    return message


def to_recommendation(ranked: RankedDish) -> pb.Recommendation:
    """Translate one ranked dish."""
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


def to_reload_response(result: ReloadResult) -> pb.ReloadModelResponse:
    """Translate the result of a reload."""
    return pb.ReloadModelResponse(
        version=result.version,
        previous_version=result.previous_version,
        already_serving=result.already_serving,
        load_time=to_duration(result.load_seconds),
        prepared=result.prepared,
    )


def to_query_log_response(stats: QueryLogStats) -> pb.GetQueryLogStatsResponse:
    """Translate the statistics of the query log."""
    written_at = stats.last_written_at
    return pb.GetQueryLogStatsResponse(
        written=stats.written,
        dropped=stats.dropped,
        pending=stats.pending,
        file_bytes=stats.file_bytes,
        rotated_files=stats.rotated_files,
        last_written_at=to_timestamp(datetime.fromtimestamp(written_at, UTC)) if written_at else None,
        spooled=stats.spooled,
        spool_dropped=stats.spool_dropped,
        spool_bytes=stats.spool_bytes,
        spool_id=stats.spool_id,
    )


def to_collect_response(batch: Batch) -> pb.CollectQueryRecordsResponse:
    """Translate a batch of a spool."""
    return pb.CollectQueryRecordsResponse(
        spool_id=batch.spool_id, records=batch.records, position=batch.position, dropped=batch.dropped
    )


def to_forget_response(forgotten: Forgotten) -> pb.ForgetQueryRecordsResponse:
    """Translate the numbers of deleted query records."""
    return pb.ForgetQueryRecordsResponse(log_lines=forgotten.log_lines, spooled=forgotten.spooled)


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Translate a time span in seconds."""
    return duration_pb2.Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))


def to_timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """Translate a time in UTC."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp
