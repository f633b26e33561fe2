"""Asks a cascade about examples and measures its answers."""

from collections.abc import Sequence
from dataclasses import replace

from services.trainer.dataset.examples import Example
from services.trainer.evaluation.metrics import Evaluation, add_golden, evaluate
from services.trainer.graphs.cascade import Cascade

TIMED_QUERIES = 200


def measure(cascade: Cascade, examples: Sequence[Example], model_bytes: int) -> Evaluation:
    """Return how a cascade does on examples; those without a label are out of scope."""
    evaluation = evaluate(examples, cascade.answer([example.text for example in examples]), cascade.labels)
    timed = [example.text for example in examples if example.labels][:TIMED_QUERIES]
    return replace(
        evaluation,
        model_bytes=model_bytes,
        query_micros=cascade.measure_linear_micros(timed),
        transformer_query_micros=cascade.measure_transformer_micros(timed),
    )


def measure_golden(evaluation: Evaluation, cascade: Cascade, golden: Sequence[Example]) -> Evaluation:
    """Return an evaluation with a cascade's answers to the golden queries."""
    answers = cascade.answer([example.text for example in golden])
    return add_golden(evaluation, golden, answers.probabilities, cascade.labels)
