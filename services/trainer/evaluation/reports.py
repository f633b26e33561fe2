"""Translates evaluations and decisions to and from the messages that the registry stores."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from moodfood.registry.v1.manifest_pb2 import EvaluationReport, PromotionDecision, RuleResult, TrainingChoices

from services.trainer.evaluation.gate import Decision, Rule
from services.trainer.evaluation.metrics import Evaluation
from services.trainer.fitting.fit import Choices
from services.trainer.storage import read_lines

M = TypeVar("M", bound=Message)


def to_json(message: Message, indent: int | None = 2) -> str:
    """Return a message as JSON with the proto's field names, defaults written out."""
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=indent, always_print_fields_with_no_presence=True
    )


def read_message(path: Path, message: M) -> M | None:
    """Return a message filled from a file of JSON; None if there is no file or it cannot be read."""
    try:
        return json_format.Parse(path.read_text(encoding="utf-8"), message, ignore_unknown_fields=True)
    except (OSError, ValueError, json_format.ParseError):
        return None


def read_messages(path: Path, kind: type[M]) -> Iterator[M]:
    """Yield the message of each line that holds one; none if there is no file."""
    for line in read_lines(path):
        with contextlib.suppress(json_format.ParseError):
            yield json_format.Parse(line, kind(), ignore_unknown_fields=True)


def evaluation_report(evaluation: Evaluation, choices: Choices | None = None) -> EvaluationReport:
    """Translate an evaluation, and what cross-validation chose."""
    report = EvaluationReport(
        accuracy=evaluation.accuracy,
        macro_f1=evaluation.macro_f1,
        recall_at_3=evaluation.recall_at_3,
        held_out_examples=evaluation.held_out_examples,
        golden_queries=evaluation.golden_queries,
        golden_wrong=evaluation.golden_wrong,
        query_micros=evaluation.query_micros,
        model_bytes=evaluation.model_bytes,
        feedback_examples=evaluation.feedback_examples,
        feedback_accuracy=evaluation.feedback_accuracy,
        expected_calibration_error=evaluation.calibration_error,
        coverage=evaluation.coverage,
        out_of_scope_examples=evaluation.out_of_scope_examples,
        out_of_scope_recall=evaluation.out_of_scope_recall,
        out_of_scope_recall_at_95=evaluation.out_of_scope_recall_at_95,
        escalated=evaluation.escalated,
        transformer_query_micros=evaluation.transformer_query_micros,
        mean_query_micros=evaluation.mean_query_micros,
        choices=TrainingChoices(**asdict(choices)) if choices else None,
    )
    for result in evaluation.labels:
        report.labels.add(label=result.label, examples=result.examples, recall=result.recall, f1=result.f1)
    return report


def promotion_decision(decision: Decision) -> PromotionDecision:
    """Translate a decision."""
    message = PromotionDecision(promoted=decision.promoted, champion_version=decision.champion_version)
    message.rules.extend(rule_results(decision.rules))
    for part in decision.parts:
        message.parts.add(
            kind=part.kind,
            name=part.name,
            examples=part.examples,
            champion=part.champion,
            challenger=part.challenger,
            surely_lost=part.sure,
        )
    return message


def rule_results(rules: Sequence[Rule]) -> list[RuleResult]:
    """Translate rules."""
    return [
        RuleResult(
            rule=rule.name,
            passed=rule.passed,
            measured=rule.measured,
            threshold=rule.threshold,
            detail=rule.detail,
            low=rule.low,
            high=rule.high,
        )
        for rule in rules
    ]
