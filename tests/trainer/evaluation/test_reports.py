from services.trainer.evaluation.comparison import GroupComparison
from services.trainer.evaluation.gate import Decision, Rule
from services.trainer.evaluation.metrics import Evaluation, LabelResult
from services.trainer.evaluation.reports import evaluation_report, promotion_decision
from services.trainer.fitting.fit import Choices
from services.trainer.fitting.thresholds import AbstentionPoint, EscalationPoint

EVALUATION = Evaluation(
    0.9, 0.8, 0.95, 100, 2, ("pizza -> tea",), (LabelResult("soup", 10, 0.5, 0.25),), 50.0, 1000,
    calibration_error=0.02, escalated=0.25, transformer_query_micros=1000.0,
)  # fmt: skip


def test_report_has_the_names_of_the_registry_for_what_was_measured() -> None:
    report = evaluation_report(EVALUATION)
    assert (
        report.accuracy, report.macro_f1, report.held_out_examples, list(report.golden_wrong)
    ) == (0.9, 0.8, 100, ["pizza -> tea"])  # fmt: skip
    assert (report.expected_calibration_error, report.mean_query_micros) == (0.02, 287.5)
    (label,) = report.labels
    assert (label.label, label.examples, label.recall, label.f1) == ("soup", 10, 0.5, 0.25)
    assert not report.HasField("choices")


def test_factors_keep_the_names_that_the_registry_has_for_them() -> None:
    choices = Choices(
        500,
        1.0,
        4.5,
        0.91,
        10.0,
        1.25,
        0.5,
        0.95,
        (EscalationPoint(0.5, 0.2, 0.94),),
        (AbstentionPoint(0.3, 0.9, 0.97),),
    )
    message = evaluation_report(EVALUATION, choices).choices
    assert (message.temperature, message.embedding_share, message.linear_share) == (4.5, 1.25, 0.5)
    assert (
        message.out_of_fold_examples, message.linear_inverse_regularisation, message.head_inverse_regularisation,
        message.linear_accuracy, message.transformer_accuracy,
    ) == (500, 1.0, 10.0, 0.91, 0.95)  # fmt: skip
    assert ([p.margin for p in message.escalation], [p.threshold for p in message.abstention]) == ([0.5], [0.3])


def test_decision_names_every_rule_and_every_group() -> None:
    rule = Rule("accuracy_not_worse", False, 0.8, 0.9, "lower", -0.2, -0.1)
    message = promotion_decision(Decision((rule,), 3, (GroupComparison("label", "soup", 40, 0.9, 0.5, True),)))
    assert (message.promoted, message.champion_version) == (False, 3)
    (told,) = message.rules
    assert (rule.name, False, 0.8, 0.9, "lower", -0.2, -0.1) == (
        told.rule, told.passed, told.measured, told.threshold, told.detail, told.low, told.high
    )  # fmt: skip
    (part,) = message.parts
    assert (part.kind, part.name, part.examples, part.surely_lost) == ("label", "soup", 40, True)
