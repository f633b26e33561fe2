"""Turns proto messages into the JSON that callers get."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.inference.v1 import inference_pb2
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2

from services.gateway import schemas

_METHODS = {
    inference_pb2.STAGE_LINEAR: "ml_classifier",
    inference_pb2.STAGE_TRANSFORMER: "transformer",
    inference_pb2.STAGE_KEYWORD: "keyword_fallback",
}
_KINDS = {inference_pb2.GRAM_KIND_WORDS: "words", inference_pb2.GRAM_KIND_CHARACTERS: "characters"}


def now() -> str:
    """Return the present moment, UTC, to the second."""
    return _text(datetime.now(UTC))


def moment(stamp: Timestamp) -> str | None:
    """Return a timestamp, UTC, to the second; None when it is not set."""
    return _text(stamp.ToDatetime(UTC)) if stamp.seconds else None


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S")


def plain(message: Message) -> dict[str, Any]:
    """Return any message as JSON values with the proto's field names."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def classification(answer: inference_pb2.Classification, seconds: float) -> dict[str, Any]:
    """Return the fields that every classification has."""
    best = answer.intents[0]
    return {
        "primary_intent": best.label,
        "confidence": round(best.confidence, 4),
        "method": _METHODS.get(answer.stage, "keyword_fallback"),
        "all_intents": [(intent.label, round(intent.confidence, 4)) for intent in answer.intents],
        "model_version": answer.model_version,
        "query_id": answer.query_id,
        "processing_time": round(seconds, 6),
    }


def explained(answer: inference_pb2.Classification, seconds: float) -> schemas.ExplainedAnswer:
    """Return a classification, what spoke for it, and the stages that passed."""
    found = answer.explanation
    explanation = schemas.Explanation(
        label=found.label,
        summary=found.summary,
        intercept=round(found.intercept, 4),
        grams=[schemas.GramWeight(each.gram, _KINDS[each.kind], round(each.weight, 4)) for each in found.grams],
    )
    return schemas.ExplainedAnswer(
        **classification(answer, seconds),
        passed=[schemas.PassedStage(_METHODS[each.stage], each.reason) for each in answer.passed],
        explanation=explanation if answer.HasField("explanation") else None,
    )


def dish(recommendation: inference_pb2.Recommendation) -> schemas.Dish:
    """Return one dish."""
    return schemas.Dish(
        food_name=recommendation.food_name,
        food_category=recommendation.food_category,
        food_region=recommendation.food_region,
        food_culture=recommendation.food_culture,
        food_tags=list(recommendation.food_tags),
        score=recommendation.score,
        reasoning=recommendation.reasoning,
        diets=list(recommendation.diets),
    )


def classifier_state(status: inference_pb2.GetModelStatusResponse) -> schemas.ClassifierState:
    """Return what inference has loaded."""
    return schemas.ClassifierState(
        ml_classifier_loaded=status.version > 0,
        ml_labels_count=status.label_count,
        transformer_loaded=inference_pb2.STAGE_TRANSFORMER in status.stages,
    )


def run(training_run: trainer_pb2.TrainingRun) -> dict[str, Any]:
    """Return a training run with short names for its enums and without the per-label scores."""
    trimmed = trainer_pb2.TrainingRun()
    trimmed.CopyFrom(training_run)
    del trimmed.evaluation.labels[:]
    shown = plain(trimmed)
    shown["trigger"] = _short(trainer_pb2.Trigger.Name(training_run.trigger), "TRIGGER_")
    shown["state"] = _short(trainer_pb2.RunState.Name(training_run.state), "RUN_STATE_")
    shown["stage"] = _short(trainer_pb2.RunStage.Name(training_run.stage), "RUN_STAGE_")
    shown["operation"] = f"operations/{training_run.run_id}"
    for field in ("evaluation", "decision", "snapshot"):
        if not training_run.HasField(field):
            shown.pop(field, None)
    return shown


def retrain_state(status: trainer_pb2.GetRetrainStatusResponse) -> schemas.RetrainState:
    """Return whether retraining is due."""
    data, model = status.logged_data_status, status.model_status
    return schemas.RetrainState(
        last_retrain=moment(status.last_retrain),
        next_retrain_recommended=status.next_retrain_recommended,
        logged_data_status=schemas.DataState(moment(data.last_updated), data.days_old, data.sample_count),
        model_status=schemas.ModelState(moment(model.last_updated), model.days_old, model.exists, model.version),
        recommendations=list(status.recommendations),
        due=status.due,
        running=run(status.running) if status.HasField("running") else None,
        drift=plain(status.drift),
    )


def version(model_version: trainer_pb2.ModelVersion) -> dict[str, Any]:
    """Return one version with a short name for its state."""
    shown = plain(model_version)
    shown["state"] = _short(trainer_pb2.VersionState.Name(model_version.state), "VERSION_STATE_")
    return shown


def history_entry(entry: Message) -> dict[str, Any]:
    """Return one line of the history with a short name for what was done."""
    shown = plain(entry)
    shown["action"] = _short(shown["action"], "HISTORY_ACTION_")
    return shown


def review_item(item: trainer_pb2.ReviewItem) -> dict[str, Any]:
    """Return one review item with a short name for its reason."""
    shown = plain(item)
    shown["reason"] = _short(shown["reason"], "REVIEW_REASON_")
    return shown


def schedule(state: scheduler_pb2.ScheduleState) -> dict[str, Any]:
    """Return the schedule with a short name for its kind."""
    asked = state.schedule
    return {
        "running": state.running,
        "schedule": {**plain(asked), "kind": _short(scheduler_pb2.ScheduleKind.Name(asked.kind), "SCHEDULE_KIND_")}
        if state.HasField("schedule")
        else None,
        "next_run_at": moment(state.next_run_at),
        "last_fired_at": moment(state.last_fired_at),
        "last_outcome": state.last_outcome,
    }


def experiment(message: manifest_pb2.Experiment) -> dict[str, Any]:
    """Return an experiment with a short name for its kind."""
    shown = plain(message)
    shown["kind"] = _short(shown["kind"], "EXPERIMENT_KIND_")
    return shown


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
