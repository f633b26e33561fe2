"""Measures drift: whether recent queries differ from the first ones that the champion answered after its promotion.

Two distributions are compared: the answered labels and the confidences. The population stability index says how large
the difference is. A statistical test says how likely it is by chance: chi-square for the labels, Kolmogorov-Smirnov for
the confidences, with Holm's correction for two tests. The queries have drifted when the index is large and the test is
significant. Neither is enough alone: with many queries a test finds differences that are too small to matter, and with
few queries the index is large by chance. The part of the index that chance alone adds, (groups - 1) * (1/n + 1/m), is
subtracted (Yurdakul, 2018).

The summary of the first queries after a promotion is kept, because old queries are deleted.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import TrafficRecord
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from services.language.names import TRANSFORMER_STAGE, UNKNOWN_LABEL
from services.trainer.database.database import Database
from services.trainer.database.tables import drift_references
from services.trainer.evaluation.comparison import holm
from services.trainer.feedback.answered_query import AnsweredQuery
from services.trainer.feedback.query_store import QueryStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.storage import to_json

FEWEST_QUERIES = 200
# Queries have drifted when the index is above the one and the test's chance is below the other.
LEAST_INDEX = 0.2
SIGNIFICANCE = 0.01
# Labels rarer than this in both samples together are one group.
FEWEST_IN_A_GROUP = 10
CONFIDENCE_STEPS = 100
CONFIDENCE_GROUPS = 10
REFERENCE_QUERIES = 1000
RECENT_QUERIES = 1000


@dataclass(frozen=True)
class Traffic:
    """A summary of the answers to some queries.

    Attributes:
        labels: number of queries for each best label.
        confidences: number of queries for each confidence, in steps of 0.01, [CONFIDENCE_STEPS + 1].
        unknown: number of queries that were answered "unknown".
        escalated: number of queries that the transformer stage answered.

    """

    labels: Mapping[str, int]
    confidences: tuple[int, ...]
    unknown: int
    escalated: int

    @property
    def queries(self) -> int:
        """Number of queries."""
        return sum(self.labels.values())

    def share(self, count: int) -> float:
        """Return a count as a share of the queries, in [0, 1]; 0 without queries."""
        return count / self.queries if self.queries else 0.0


@dataclass(frozen=True)
class Drift:
    """The difference between recent traffic and the traffic at promotion.

    Attributes:
        reference: the traffic at promotion.
        recent: the recent traffic.
        measured: whether both have at least FEWEST_QUERIES queries; if not, the fields below keep their defaults.
        label_index, confidence_index: population stability indices, 0 or more.
        label_chance, confidence_chance: p-values, the probabilities of such a difference by chance, in [0, 1].
        moved: the labels whose share changed most, and the change, in [-1, 1].

    """

    reference: Traffic
    recent: Traffic
    measured: bool = False
    label_index: float = 0.0
    confidence_index: float = 0.0
    label_chance: float = 1.0
    confidence_chance: float = 1.0
    moved: tuple[tuple[str, float], ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each distribution that has drifted."""
        asked = (
            ("labels", self.label_index, self.label_chance),
            ("confidences", self.confidence_index, self.confidence_chance),
        )
        sure = holm([chance for _, _, chance in asked], SIGNIFICANCE)
        return tuple(
            f"{what} have drifted: stability index {index:.2f}, p-value {chance:.1e}"
            for (what, index, chance), certain in zip(asked, sure, strict=True)
            if self.measured and certain and index > LEAST_INDEX
        )


def count_traffic(queries: Iterable[AnsweredQuery]) -> Traffic:
    """Return the summary of some answered queries."""
    labels: Counter[str] = Counter()
    confidences = [0] * (CONFIDENCE_STEPS + 1)
    unknown = escalated = 0
    for query in queries:
        labels[query.label] += 1
        confidences[round(min(max(query.confidence, 0.0), 1.0) * CONFIDENCE_STEPS)] += 1
        unknown += query.label == UNKNOWN_LABEL
        escalated += query.stage == TRANSFORMER_STAGE
    return Traffic(dict(labels), tuple(confidences), unknown, escalated)


def measure(reference: Traffic, recent: Traffic) -> Drift:
    """Compare recent traffic with the traffic at promotion."""
    if min(reference.queries, recent.queries) < FEWEST_QUERIES:
        return Drift(reference, recent)
    labels = _label_groups(reference, recent)
    steps = np.array([reference.confidences, recent.confidences], dtype=float)
    return Drift(
        reference,
        recent,
        measured=True,
        label_index=stability_index(labels),
        confidence_index=stability_index(_confidence_groups(steps)),
        label_chance=_chi_square(labels),
        confidence_chance=_kolmogorov_smirnov(steps),
        moved=_list_moved(reference, recent),
    )


def stability_index(counts: np.ndarray) -> float:
    """Return the population stability index of counts [2, groups], minus what chance adds; 0 or more."""
    totals = counts.sum(axis=1, keepdims=True)
    # Half a query is added to each group, so that the logarithm of an empty group is finite.
    shares: np.ndarray = (counts + 0.5) / (totals + 0.5 * counts.shape[1])
    index = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    by_chance = float((counts.shape[1] - 1) * (1 / totals).sum())
    return max(0.0, index - by_chance)


def _label_groups(reference: Traffic, recent: Traffic) -> np.ndarray:
    names = sorted(set(reference.labels) | set(recent.labels))
    counts = np.array([[traffic.labels.get(name, 0) for name in names] for traffic in (reference, recent)], dtype=float)
    common = counts.sum(axis=0) >= FEWEST_IN_A_GROUP
    rare = counts[:, ~common].sum(axis=1, keepdims=True)
    return np.hstack([counts[:, common], rare]) if rare.sum() else counts[:, common]


def _confidence_groups(steps: np.ndarray) -> np.ndarray:
    """Join steps of confidence into groups that had about equally many queries at promotion."""
    before = np.cumsum(steps[0]) - steps[0]
    group = np.minimum((before / steps[0].sum() * CONFIDENCE_GROUPS).astype(int), CONFIDENCE_GROUPS - 1)
    joined = np.zeros((2, CONFIDENCE_GROUPS))
    for row in range(2):
        np.add.at(joined[row], group, steps[row])
    return joined[:, joined.sum(axis=0) > 0]


def _chi_square(counts: np.ndarray) -> float:
    # Imported here and below, because it takes a second and a trainer starts more often than it measures drift.
    from scipy.stats import chi2_contingency

    return float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0


def _kolmogorov_smirnov(steps: np.ndarray) -> float:
    from scipy.stats import kstwo

    sizes = steps.sum(axis=1)
    cumulated = np.cumsum(steps, axis=1) / sizes[:, None]
    distance = float(np.abs(cumulated[0] - cumulated[1]).max())
    return float(kstwo.sf(distance, max(1, round(math.prod(sizes) / sizes.sum()))))


def _list_moved(reference: Traffic, recent: Traffic) -> tuple[tuple[str, float], ...]:
    changes: Sequence[tuple[str, float]] = [
        (name, recent.share(recent.labels.get(name, 0)) - reference.share(reference.labels.get(name, 0)))
        for name in sorted(set(reference.labels) | set(recent.labels))
    ]
    return tuple(sorted(changes, key=lambda change: -abs(change[1]))[:5])


def measure_champion_drift(database: Database, registry: ModelRegistry, queries: QueryStore) -> Drift:
    """Compare the newest queries of the champion with the first ones after its promotion.

    It blocks: call it off the event loop.

    Args:
        database: holds the summaries of the first queries.
        registry: the registry, whose alias says which version is the champion and since when.
        queries: the answered queries.

    Raises:
        StorageFailed: the database cannot be read.

    """
    alias = registry.alias.read()
    if alias is None:
        return measure(count_traffic(()), count_traffic(()))
    key = {"model": registry.model, "version": alias.version, "generation": alias.generation}
    record = _read_reference(database, key)
    if record is None:
        answered = queries.first_of(alias.version, alias.promoted_at.ToMicroseconds(), REFERENCE_QUERIES)
        if len(answered) < REFERENCE_QUERIES:
            return measure(count_traffic(answered), count_traffic(()))
        record = _keep_reference(database, key, _record(answered))
    reference = Traffic(dict(record.labels), tuple(record.confidences), record.unknown, record.escalated)
    newest = queries.newest_of(alias.version, RECENT_QUERIES, record.until.ToMicroseconds())
    return measure(reference, count_traffic(newest))


def _read_reference(database: Database, key: Mapping[str, Any]) -> TrafficRecord | None:
    query = select(drift_references.c.record).where(*(drift_references.c[name] == value for name, value in key.items()))
    with database.read() as connection:
        record = connection.scalar(query)
    return None if record is None else json_format.Parse(record, TrafficRecord(), ignore_unknown_fields=True)


def _keep_reference(database: Database, key: Mapping[str, Any], record: TrafficRecord) -> TrafficRecord:
    """Store a reference and return the one that counts: of two trainers at once, that of the first."""
    try:
        with database.write() as connection:
            connection.execute(drift_references.insert().values(**key, record=to_json(record, indent=None)))
    except IntegrityError:
        return _read_reference(database, key) or record
    return record


def _record(answered: Sequence[AnsweredQuery]) -> TrafficRecord:
    traffic = count_traffic(answered)
    record = TrafficRecord(
        labels=traffic.labels,
        confidences=traffic.confidences,
        unknown=traffic.unknown,
        escalated=traffic.escalated,
    )
    record.until.FromMicroseconds(round(answered[-1].at * 1e6))
    return record
