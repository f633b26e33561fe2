from pathlib import Path

import numpy as np
import pytest

from services.trainer.database.database import Database
from services.trainer.feedback.answered_query import AnsweredQuery
from services.trainer.feedback.query_store import QueryStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.schedule.drift import (
    REFERENCE_QUERIES,
    Drift,
    Traffic,
    count_traffic,
    measure,
    measure_champion_drift,
    stability_index,
)

LABELS = 138


def traffic(seed: int, size: int = 1000, moved: float = 0.0, unsure: float = 0.0) -> Traffic:
    """Traffic over many labels; a share of the queries is about a few of them, a share is answered unsurely."""
    chance = np.random.default_rng(seed)
    weights = 1 / np.arange(1, LABELS + 1)
    labels = chance.choice(LABELS, size, p=weights / weights.sum())
    labels = np.where(chance.random(size) < moved, chance.integers(60, 63, size), labels)
    confidences = chance.beta(8, 2, size) * np.where(chance.random(size) < unsure, 0.4, 1.0)
    return count_traffic(
        AnsweredQuery(str(n), "text", 0.0, f"label_{label}", float(confidence), 0.0, "linear", 1, 1)
        for n, (label, confidence) in enumerate(zip(labels, confidences, strict=True))
    )


def test_the_same_kind_of_traffic_has_not_drifted_in_99_of_100_pairs() -> None:
    drifted = [bool(measure(traffic(2 * n), traffic(2 * n + 1)).reasons) for n in range(100)]
    assert sum(drifted) <= 1


def test_labels_that_a_quarter_of_the_queries_moved_to_are_noticed_and_named() -> None:
    drift = measure(traffic(1), traffic(2, moved=0.25))
    assert [reason.split()[0] for reason in drift.reasons] == ["labels"]
    assert {"label_60", "label_61", "label_62"} <= {label for label, _ in drift.moved}
    assert drift.moved[0][1] > 0


def test_confidences_that_fell_are_noticed() -> None:
    drift = measure(traffic(1), traffic(2, unsure=0.4))
    assert [reason.split()[0] for reason in drift.reasons] == ["confidences"]


def test_change_too_small_to_matter_is_no_drift_however_sure() -> None:
    drift = measure(traffic(1, size=20_000), traffic(2, size=20_000, moved=0.03))
    assert drift.label_chance < 1e-6
    assert drift.reasons == ()


@pytest.mark.parametrize(("before", "after", "measured"), [(200, 200, True), (199, 200, False), (200, 0, False)])
def test_few_queries_say_nothing(before: int, after: int, measured: bool) -> None:
    drift = measure(traffic(1, before), traffic(2, after, moved=1.0))
    assert (measured, measured) == (drift.measured, bool(drift.reasons))


def test_traffic_of_one_label_is_no_problem() -> None:
    same = Traffic({"a": 300}, tuple([0] * 90 + [300] + [0] * 10), 0, 0)
    assert measure(same, same).reasons == ()


def test_index_is_the_textbook_one_less_what_chance_adds() -> None:
    counts = np.array([[500.0, 500.0], [800.0, 200.0]])
    textbook = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert textbook - 0.002 == pytest.approx(stability_index(counts), abs=2e-3)


class Queries(QueryStore):
    """Answered queries, one a second, in memory."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.stored = list[AnsweredQuery]()

    def add(self, count: int, label: str, version: int = 1) -> None:
        since = 4e9 + len(self.stored)
        self.stored.extend(
            AnsweredQuery(f"{since + n}", "x", since + n, label, 0.9, 0.0, "linear", version, 1) for n in range(count)
        )

    def first_of(self, version: int, since_micros: int, count: int) -> list[AnsweredQuery]:
        return [query for query in self.stored if query.version == version and query.at * 1e6 >= since_micros][:count]

    def newest_of(self, version: int, count: int, after_micros: int) -> list[AnsweredQuery]:
        return [query for query in self.stored if query.version == version and query.at * 1e6 > after_micros][-count:]


def test_reference_is_the_first_traffic_of_the_champion_and_outlives_the_queries(
    database: Database, registry: ModelRegistry
) -> None:
    queries = Queries(database)

    def drift_now() -> Drift:
        return measure_champion_drift(database, registry, queries)

    queries.add(REFERENCE_QUERIES - 1, "soup")
    assert (drift_now().reference.queries, drift_now().recent.queries) == (REFERENCE_QUERIES - 1, 0)
    queries.add(1, "soup")
    queries.add(500, "other version", version=2)
    assert (drift_now().reference.queries, drift_now().recent.queries) == (REFERENCE_QUERIES, 0)
    queries.add(300, "cake")
    del queries.stored[: REFERENCE_QUERIES // 2]
    drift = drift_now()
    assert (drift.reference.queries, drift.recent.queries) == (REFERENCE_QUERIES, 300)
    assert len(drift.reasons) == 1
    assert ("cake", 1.0) in drift.moved


def test_of_two_trainers_that_keep_a_reference_at_once_the_first_one_counts(
    database: Database, registry: ModelRegistry
) -> None:
    ours, theirs = Queries(database), Queries(database)
    ours.add(REFERENCE_QUERIES, "soup")
    theirs.add(REFERENCE_QUERIES, "cake")

    class MeasuredByAnother(Queries):
        def first_of(self, version: int, since_micros: int, count: int) -> list[AnsweredQuery]:
            measure_champion_drift(database, registry, theirs)
            return ours.first_of(version, since_micros, count)

    drift = measure_champion_drift(database, registry, MeasuredByAnother(database))
    assert dict(drift.reference.labels) == {"cake": REFERENCE_QUERIES}


def test_without_a_champion_nothing_is_measured(database: Database, tmp_path: Path) -> None:
    drift = measure_champion_drift(database, ModelRegistry(tmp_path, "none", 10, database), Queries(database))
    assert (drift.measured, drift.reference.queries) == (False, 0)
