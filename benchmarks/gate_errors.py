"""Measure both errors of the gate on resamples of some examples: harmless challengers refused, worse ones promoted.

The hash selects a hold-out, as in a run. Champion and harmless challengers are linear stages fitted to different random
90 % of the other examples. Worse challengers are fitted to a smaller share, at which the accuracy on the test examples
is three points lower; that share is searched first, by the mean of three fits. `gate.decide` decides about every
challenger by the hold-out, as in a run, and never sees the test examples. Ends with 1 when under 95 % of the harmless
challengers are promoted or under 99 % of the worse ones are refused. Run it with
`.venv/bin/python -m benchmarks.gate_errors --examples train.jsonl --test test.jsonl --rounds 100`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.language.text import normalise
from services.trainer.dataset.examples import Example
from services.trainer.dataset.files import read_examples
from services.trainer.dataset.snapshot import is_in_holdout
from services.trainer.evaluation.comparison import Prediction
from services.trainer.evaluation.gate import Decision, decide
from services.trainer.evaluation.metrics import Evaluation, evaluate_predictions, rank_labels
from services.trainer.evaluation.slices import slices_of
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.ngrams import GramCounts, count_grams
from services.trainer.fitting.training_set import build_label_matrix

HARMLESS_SHARE = 0.9
POINTS_WORSE = 0.03
SEARCH_FITS = 3
SEARCH_STEPS = 6
PROMOTED, REFUSED = 0.95, 0.99


@dataclass(frozen=True)
class Data:
    """Examples with their grams counted; indices of those to fit to, of the hold-out, and of the test examples."""

    examples: Sequence[Example]
    labels: tuple[str, ...]
    counts: GramCounts
    label_matrix: np.ndarray
    fittable: np.ndarray
    holdout: np.ndarray
    test: np.ndarray


def read(examples: Sequence[Path], test: Sequence[Path]) -> Data:
    """Read and count everything once."""
    given, _ = read_examples(examples)
    for_test, _ = read_examples(test)
    everything = [example for example in (*given, *for_test) if example.labels]
    labels, label_matrix = build_label_matrix(everything)
    held_out = np.array([is_in_holdout(example.text) for example in everything])
    is_test = np.arange(len(everything)) >= sum(bool(example.labels) for example in given)
    return Data(
        everything,
        labels,
        count_grams([normalise(example.text) for example in everything]),
        label_matrix,
        np.flatnonzero(~held_out & ~is_test),
        np.flatnonzero(held_out & ~is_test),
        np.flatnonzero(is_test),
    )


def fit(data: Data, share: float, chance: np.random.Generator) -> LinearClassifier:
    """Fit to a random share of the examples outside hold-out and test."""
    rows = np.sort(chance.choice(data.fittable, round(share * len(data.fittable)), replace=False))
    return LinearClassifier(1.0).fit_counts(data.counts.of(rows), data.label_matrix[rows])


def measure_accuracy(data: Data, model: LinearClassifier, rows: np.ndarray) -> float:
    """Return the share of rows answered rightly."""
    answers = model.scores_of(data.counts.of(rows)).argmax(axis=1)
    return float(data.label_matrix[rows, answers].mean())


def evaluate(data: Data, model: LinearClassifier) -> Evaluation:
    """Evaluate a model on the hold-out; its size and its time are left at 0, so their rules pass."""
    examples = [data.examples[row] for row in data.holdout]
    ranked = rank_labels(model.scores_of(data.counts.of(data.holdout)), data.labels)
    return evaluate_predictions(
        [
            Prediction(example.labels, best[0], slices_of(example.text, example.source))
            for example, best in zip(examples, ranked, strict=True)
        ]
    )


def find_share_of_worse(data: Data, goal: float, chance: np.random.Generator) -> float:
    """Return the share of the examples with which the accuracy on the test examples falls to a goal."""
    low, high = 0.05, HARMLESS_SHARE
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        reached = np.mean([measure_accuracy(data, fit(data, middle, chance), data.test) for _ in range(SEARCH_FITS)])
        low, high = (middle, high) if reached < goal else (low, middle)
    return (low + high) / 2


def challenge(
    data: Data, share: float, count: int, champion: LinearClassifier, chance: np.random.Generator
) -> list[Decision]:
    """Let the gate decide about challengers fitted to a share of the examples; print what they are refused for."""
    before, at_test = evaluate(data, champion), measure_accuracy(data, champion, data.test)
    decisions = []
    apart = []
    for _ in range(count):
        challenger = fit(data, share, chance)
        apart.append(measure_accuracy(data, challenger, data.test) - at_test)
        decisions.append(decide(evaluate(data, challenger), before, 1))
    refusals: dict[str, int] = {}
    for decision in decisions:
        for rule in decision.rules:
            refusals[rule.name] = refusals.get(rule.name, 0) + (not rule.passed)
    told = ", ".join(f"{name} {number}" for name, number in refusals.items() if number)
    print(
        f"fitted to {share:.0%}: test accuracy {np.mean(apart):+.4f} (deviation {np.std(apart):.4f}); "
        f"refused by: {told or 'nothing'}"
    )
    return decisions


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance = np.random.default_rng(asked.seed)
    data = read(asked.examples, asked.test)
    champion = fit(data, HARMLESS_SHARE, chance)
    print(f"{len(data.fittable)} examples to fit to, {len(data.holdout)} held out, {len(data.test)} to test")
    harmless = challenge(data, HARMLESS_SHARE, asked.rounds, champion, chance)
    goal = measure_accuracy(data, champion, data.test) - POINTS_WORSE
    worse = challenge(data, find_share_of_worse(data, goal, chance), asked.rounds, champion, chance)
    promoted = sum(decision.passed for decision in harmless)
    refused = sum(not decision.passed for decision in worse)
    print(f"{promoted} of {asked.rounds} harmless promoted, limit {PROMOTED:.0%}")
    print(f"{refused} of {asked.rounds} three points worse refused, limit {REFUSED:.0%}")
    sys.exit(0 if promoted >= PROMOTED * asked.rounds and refused >= REFUSED * asked.rounds else 1)


if __name__ == "__main__":
    main()
