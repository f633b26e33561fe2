"""Compares two models on the same examples: how far apart they are, and how sure that is. Pure functions.

Differences of accuracy and macro-F1 get a paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
1993): both models are measured on the same resamples, so what they have in common cancels. Labels and slices get the
exact sign test on the examples that only one of the two answers rightly (McNemar, 1947), corrected for their number by
Holm's method (1979).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

RESAMPLES = 2000
SEED = 20_240_711
# Both ends of the interval; the gate asks five families of questions at once, so 95 % would be too few for each.
CONFIDENCE = 0.99
FEWEST_EXAMPLES = 20
# The sign test on few examples errs far less often than its level says.
SURE = 0.05


@dataclass(frozen=True)
class Judgement:
    """One held-out example that has labels, the label a model answered, and the slices it belongs to."""

    labels: tuple[str, ...]
    answer: str
    slices: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether the answer is one of the labels."""
        return self.answer in self.labels


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion; `deviation` is the bootstrap's standard deviation, low and high its interval."""

    value: float
    low: float
    high: float
    deviation: float


@dataclass(frozen=True)
class PartComparison:
    """Both models on one label or slice.

    Attributes:
        kind: "label" or "slice".
        champion, challenger: share of its examples answered rightly.
        sure: whether the loss is more than chance, corrected for the number of parts of its kind.

    """

    kind: str
    name: str
    examples: int
    champion: float
    challenger: float
    sure: bool

    @property
    def loss(self) -> float:
        """How much lower the challenger's share is."""
        return self.champion - self.challenger


def differences(challenger: Sequence[Judgement], champion: Sequence[Judgement]) -> tuple[Difference, Difference]:
    """Return the differences of accuracy and of macro-F1 for models asked the same examples in the same order."""
    generator = np.random.default_rng(SEED)
    count = len(challenger)
    weights = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float32)
    weights = np.vstack([np.ones((1, count), dtype=np.float32), weights])
    accuracies = [weights @ _rights(each) / count for each in (challenger, champion)]
    macros = [_macro_f1(each, weights) for each in (challenger, champion)]
    return _difference(accuracies), _difference(macros)


def parts(challenger: Sequence[Judgement], champion: Sequence[Judgement]) -> tuple[PartComparison, ...]:
    """Return the comparison of each label and each slice with enough examples."""
    by_label = _parts("label", challenger, champion, lambda each: each.labels)
    return (*by_label, *_parts("slice", challenger, champion, lambda each: each.slices))


def _rights(judged: Sequence[Judgement]) -> np.ndarray:
    return np.array([each.right for each in judged], dtype=np.float32)


def _macro_f1(judged: Sequence[Judgement], weights: np.ndarray) -> np.ndarray:
    """Return macro-F1 as `evaluation.label_results` defines it for each row of weights [n_resamples, n]."""
    names = sorted({label for each in judged for label in each.labels} | {each.answer for each in judged})
    column = {name: index for index, name in enumerate(names)}
    hits, misses, alarms = np.zeros((3, len(judged), len(names)), dtype=np.float32)
    for row, each in enumerate(judged):
        if each.right:
            hits[row, column[each.answer]] = 1
            continue
        alarms[row, column[each.answer]] = 1
        for label in each.labels:
            misses[row, column[label]] = 1 / len(each.labels)
    hit, wrong = weights @ hits, weights @ (misses + alarms)
    seen = hit + wrong > 0
    f1 = np.where(seen, 2 * hit / np.where(seen, 2 * hit + wrong, 1), 1)
    return np.asarray(f1.mean(axis=1))


def _difference(measured: Sequence[np.ndarray]) -> Difference:
    challenger, champion = measured
    apart = (challenger - champion).astype(np.float64)
    low, high = np.quantile(apart[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(apart[0]), float(low), float(high), float(apart[1:].std()))


def _parts(
    kind: str,
    challenger: Sequence[Judgement],
    champion: Sequence[Judgement],
    names_of: Callable[[Judgement], Iterable[str]],
) -> tuple[PartComparison, ...]:
    rows: dict[str, list[int]] = {}
    for row, each in enumerate(champion):
        for name in names_of(each):
            rows.setdefault(name, []).append(row)
    asked = {name: rows[name] for name in sorted(rows) if len(rows[name]) >= FEWEST_EXAMPLES}
    after, before = _rights(challenger).astype(bool), _rights(champion).astype(bool)
    chances = [_chance(int((before[part] & ~after[part]).sum()), int((after[part] & ~before[part]).sum()))
               for part in asked.values()]  # fmt: skip
    return tuple(
        PartComparison(kind, name, len(part), float(before[part].mean()), float(after[part].mean()), sure)
        for (name, part), sure in zip(asked.items(), holm(chances), strict=True)
    )


def _chance(lost: int, gained: int) -> float:
    """Return the probability of losing this many or more of the examples that changed, if losing were a coin's toss."""
    return float(binom.sf(lost - 1, lost + gained, 0.5))


def holm(chances: Sequence[float], level: float = SURE) -> list[bool]:
    """Say which of some tests reject, so that all of them together err with at most the level."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    rejected = [False] * len(chances)
    for rank, index in enumerate(order):
        if chances[index] > level / (len(chances) - rank):
            break
        rejected[index] = True
    return rejected
