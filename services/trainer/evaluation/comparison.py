"""Compares the answers of two models to the same examples: how far apart they are, and how sure that is.

Differences of accuracy and macro-F1 get a paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
1993): both models are measured on the same resamples, so variation that both share cancels. Labels and slices are
groups of examples; each gets the exact sign test on the examples that only one of the models answers rightly
(McNemar, 1947), corrected for the number of groups by Holm's method (1979).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 20_240_711
# Of the interval, both ends together. The gate asks several questions at once, so 95 % would be too little for each.
CONFIDENCE = 0.99
# A group with fewer examples is not compared.
FEWEST_EXAMPLES = 20
# The level of all sign tests of one kind of group together; on few examples they err far less often than that.
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Prediction:
    """One example: its labels, of which it has at least one, the label that a model answered, and its slices."""

    labels: tuple[str, ...]
    answer: str
    slices: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether the answer is one of the labels."""
        return self.answer in self.labels


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion: the value, the interval of the bootstrap, and its standard deviation."""

    value: float
    low: float
    high: float
    deviation: float


@dataclass(frozen=True)
class GroupComparison:
    """Both models on the examples of one label or slice.

    Attributes:
        kind: "label" or "slice".
        champion, challenger: share of the examples that each answers rightly.
        is_sure: whether the challenger's loss is more than chance, corrected for the number of groups of its kind.

    """

    kind: str
    name: str
    examples: int
    champion: float
    challenger: float
    is_sure: bool

    @property
    def loss(self) -> float:
        """How much lower the challenger's share is."""
        return self.champion - self.challenger


def measure_differences(
    challenger: Sequence[Prediction], champion: Sequence[Prediction]
) -> tuple[Difference, Difference]:
    """Return the differences of accuracy and of macro-F1; both models answered the same examples in the same order."""
    generator = np.random.default_rng(SEED)
    count = len(challenger)
    weights = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float32)
    weights = np.vstack([np.ones((1, count), dtype=np.float32), weights])
    accuracies = [weights @ _right(model).astype(np.float32) / count for model in (challenger, champion)]
    macros = [_measure_macro_f1(model, weights) for model in (challenger, champion)]
    return _summarise(*accuracies), _summarise(*macros)


def compare_groups(challenger: Sequence[Prediction], champion: Sequence[Prediction]) -> tuple[GroupComparison, ...]:
    """Compare both models on each label and each slice that has FEWEST_EXAMPLES examples or more."""
    return (
        *_compare_kind("label", challenger, champion, lambda prediction: prediction.labels),
        *_compare_kind("slice", challenger, champion, lambda prediction: prediction.slices),
    )


def _right(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([prediction.right for prediction in predictions], dtype=bool)


def _measure_macro_f1(predictions: Sequence[Prediction], weights: np.ndarray) -> np.ndarray:
    """Return macro-F1, as `metrics.measure_labels` defines it, for each row of weights [n_resamples, n]."""
    names = sorted({label for prediction in predictions for label in (*prediction.labels, prediction.answer)})
    column = {name: index for index, name in enumerate(names)}
    true_positives, false_negatives, false_positives = np.zeros((3, len(predictions), len(names)), dtype=np.float32)
    for row, prediction in enumerate(predictions):
        if prediction.right:
            true_positives[row, column[prediction.answer]] = 1
            continue
        false_positives[row, column[prediction.answer]] = 1
        for label in prediction.labels:
            false_negatives[row, column[label]] = 1 / len(prediction.labels)
    hits, mistakes = weights @ true_positives, weights @ (false_negatives + false_positives)
    occurs = hits + mistakes > 0
    f1 = np.where(occurs, 2 * hits / np.where(occurs, 2 * hits + mistakes, 1), 1)
    return np.asarray(f1.mean(axis=1))


def _summarise(challenger: np.ndarray, champion: np.ndarray) -> Difference:
    """Return the difference of a measure [1 + n_resamples], whose first element is of the examples themselves."""
    apart = (challenger - champion).astype(np.float64)
    low, high = np.quantile(apart[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(apart[0]), float(low), float(high), float(apart[1:].std()))


def _compare_kind(
    kind: str,
    challenger: Sequence[Prediction],
    champion: Sequence[Prediction],
    names_of: Callable[[Prediction], Iterable[str]],
) -> tuple[GroupComparison, ...]:
    rows: dict[str, list[int]] = {}
    for row, prediction in enumerate(champion):
        for name in names_of(prediction):
            rows.setdefault(name, []).append(row)
    groups = {name: rows[name] for name in sorted(rows) if len(rows[name]) >= FEWEST_EXAMPLES}
    after, before = _right(challenger), _right(champion)
    chances = [
        _sign_test(int((before[group] & ~after[group]).sum()), int((after[group] & ~before[group]).sum()))
        for group in groups.values()
    ]
    return tuple(
        GroupComparison(kind, name, len(group), float(before[group].mean()), float(after[group].mean()), is_sure)
        for (name, group), is_sure in zip(groups.items(), holm(chances), strict=True)
    )


def _sign_test(lost: int, gained: int) -> float:
    """Return the probability of so many losses or more among the changed answers, if each were as likely a gain."""
    # Imported here, because it takes a second and the server of the trainer needs the rest of this module at start.
    from scipy.stats import binom

    return float(binom.sf(lost - 1, lost + gained, 0.5))


def holm(chances: Sequence[float], level: float = SIGNIFICANCE) -> list[bool]:
    """Say for each p-value whether its test rejects, when all tests together may err with probability `level`."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    rejected = [False] * len(chances)
    for rank, index in enumerate(order):
        if chances[index] > level / (len(chances) - rank):
            break
        rejected[index] = True
    return rejected
