"""Translates evaluations and decisions into the messages that the registry stores."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from moodfood.registry.v1.manifest_pb2 import EvaluationReport, PromotionDecision, RuleResult, TrainingChoices

from services.trainer.evaluation.gate import Decision, Rule
from services.trainer.evaluation.metrics import Evaluation

if TYPE_CHECKING:
    # Not imported at start: fitting needs scikit-learn, and the server of the trainer fits nothing.
    from services.trainer.fitting.fit import Choices


def evaluation_report(evaluation: Evaluation, choices: "Choices | None" = None) -> EvaluationReport:
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
        choices=_training_choices(choices) if choices else None,
    )
    for result in evaluation.labels:
        report.labels.add(label=result.label, examples=result.examples, recall=result.recall, f1=result.f1)
    return report


def _training_choices(choices: "Choices") -> TrainingChoices:
    """Translate choices; three fields of the message have names that their factors had in earlier releases."""
    fields = asdict(choices)
    return TrainingChoices(
        temperature=fields.pop("inverse_temperature"),
        embedding_share=fields.pop("embedding_factor"),
        linear_share=fields.pop("linear_factor"),
        **fields,
    )


def promotion_decision(decision: Decision) -> PromotionDecision:
    """Translate a decision."""
    # The field has the name that stored decisions have had from the start; it says that every rule passed.
    message = PromotionDecision(promoted=decision.passed, champion_version=decision.champion_version)
    message.rules.extend(rule_results(decision.rules))
    for group in decision.groups:
        message.parts.add(
            kind=group.kind,
            name=group.name,
            examples=group.examples,
            champion=group.champion,
            challenger=group.challenger,
            surely_lost=group.is_sure,
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
