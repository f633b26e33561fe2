"""Measure both errors of the gate on resamples of some examples: harmless challengers refused, worse ones promoted.

Champion and harmless challengers are linear stages fitted to different random nine tenths of the examples outside the
held-out part. Worse ones are fitted to as few of them as it takes to be three points worse on the test examples, which
no gate ever sees; the share is searched first, by the mean of three fits. Every pair is judged by `promotion.decide` on
the hash-picked held-out part, like any retrain. Ends with 1 when under 95 % of the harmless are promoted or under 99 %
of the worse refused. Repeat with
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
from services.trainer.evaluation.comparison import Judgement
from services.trainer.evaluation.gate import Decision, decide
from services.trainer.evaluation.metrics import Evaluation, best_labels, evaluation_of
from services.trainer.evaluation.slices import slices_of
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.ngrams import GramCounts, count_grams

HARMLESS_SHARE = 0.9
POINTS_WORSE = 0.03
SEARCH_FITS = 3
SEARCH_STEPS = 6
PROMOTED, REFUSED = 0.95, 0.99


@dataclass(frozen=True)
class Data:
    """Counted examples: which may be fitted to, which are held out, which are for the benchmark's eyes only."""

    examples: Sequence[Example]
    labels: tuple[str, ...]
    counts: GramCounts
    label_matrix: np.ndarray
    fitted: np.ndarray
    held_out: np.ndarray
    test: np.ndarray


def read(examples: Sequence[Path], test: Sequence[Path]) -> Data:
    """Read and count everything once."""
    learned, _ = read_examples(examples)
    tested, _ = read_examples(test)
    everything = [each for each in (*learned, *tested) if each.labels]
    labels = tuple(sorted({label for each in everything for label in each.labels}))
    label_matrix = np.array([[label in each.labels for label in labels] for each in everything])
    first_test = sum(bool(each.labels) for each in learned)
    picked = np.array([is_in_holdout(each.text) for each in everything])
    is_test = np.arange(len(everything)) >= first_test
    return Data(
        everything,
        labels,
        count_grams([normalise(each.text) for each in everything]),
        label_matrix,
        np.flatnonzero(~picked & ~is_test),
        np.flatnonzero(picked & ~is_test),
        np.flatnonzero(is_test),
    )


def fit(data: Data, share: float, chance: np.random.Generator) -> LinearClassifier:
    """Fit to a random share of what may be fitted to."""
    rows = np.sort(chance.choice(data.fitted, round(share * len(data.fitted)), replace=False))
    return LinearClassifier(1.0).fit_counts(data.counts.of(rows), data.label_matrix[rows])


def accuracy(data: Data, model: LinearClassifier, rows: np.ndarray) -> float:
    """Return the share of rows answered rightly."""
    answers = model.scores_of(data.counts.of(rows)).argmax(axis=1)
    return float(data.label_matrix[rows, answers].mean())


def evaluation(data: Data, model: LinearClassifier) -> Evaluation:
    """Return how a model does on the held-out part; size and time are no part of this question."""
    examples = [data.examples[row] for row in data.held_out]
    ranked = best_labels(model.scores_of(data.counts.of(data.held_out)), data.labels)
    judged = tuple(
        Judgement(each.labels, labels[0], slices_of(each)) for each, labels in zip(examples, ranked, strict=True)
    )
    return evaluation_of(judged)


def share_of_worse(data: Data, goal: float, chance: np.random.Generator) -> float:
    """Return the share of the examples with which the accuracy on the test examples falls to a goal."""
    low, high = 0.05, HARMLESS_SHARE
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        reached = np.mean([accuracy(data, fit(data, middle, chance), data.test) for _ in range(SEARCH_FITS)])
        low, high = (middle, high) if reached < goal else (low, middle)
    return (low + high) / 2


def rounds(
    data: Data, share: float, count: int, champion: LinearClassifier, chance: np.random.Generator
) -> list[Decision]:
    """Judge some challengers fitted to a share of the examples; print what each was refused for."""
    before, at_test = evaluation(data, champion), accuracy(data, champion, data.test)
    decisions = []
    apart = []
    for _ in range(count):
        challenger = fit(data, share, chance)
        apart.append(accuracy(data, challenger, data.test) - at_test)
        decisions.append(decide(evaluation(data, challenger), before, 1))
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
    print(
        f"{len(data.fitted)} examples to fit to, {len(data.held_out)} held out, {len(data.test)} for the benchmark only"
    )
    harmless = rounds(data, HARMLESS_SHARE, asked.rounds, champion, chance)
    goal = accuracy(data, champion, data.test) - POINTS_WORSE
    worse = rounds(data, share_of_worse(data, goal, chance), asked.rounds, champion, chance)
    promoted = sum(decision.promoted for decision in harmless)
    refused = sum(not decision.promoted for decision in worse)
    print(f"{promoted} of {asked.rounds} harmless promoted, limit {PROMOTED:.0%}")
    print(f"{refused} of {asked.rounds} three points worse refused, limit {REFUSED:.0%}")
    sys.exit(0 if promoted >= PROMOTED * asked.rounds and refused >= REFUSED * asked.rounds else 1)


if __name__ == "__main__":
    main()
