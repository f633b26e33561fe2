from collections.abc import Mapping
from dataclasses import replace

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.database.database import Database
from services.trainer.errors import (
    ExperimentInProgress,
    InvalidRequest,
    ModelVersionNotFound,
    NoExperiment,
    TrainerError,
    VersionRefused,
)
from services.trainer.feedback.answered_query import AnsweredQuery, ShadowAnswer
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.experiment import Experiments
from services.trainer.rollout.experiment_verdict import Observed, Pair, observe, pairs_of, reason_to_stop, verdict
from tests.fakes import FakeReplica, running
from tests.query_records import keep, make_record
from tests.registries import history_of, leases_of, open_registry, promote

pytestmark = pytest.mark.anyio

SHADOW, CANARY = pb.EXPERIMENT_KIND_SHADOW, pb.EXPERIMENT_KIND_CANARY
GOOD = Observed(queries=1000, agreement=0.95, champion_micros=100, challenger_micros=110)


def pair(n: int, champion: str = "soup", challenger: str = "soup", **changes: object) -> Pair:
    values: dict[str, object] = {
        "query_id": f"q{n}", "text": f"some soup {n}", "champion": champion, "challenger": challenger,
        "champion_micros": 100, "challenger_micros": 110, "arm": "champion", **changes,
    }  # fmt: skip
    return Pair(**values)  # type: ignore[arg-type]


def test_both_arms_are_turned_into_champion_and_challenger() -> None:
    query = AnsweredQuery("q", "x", 0.0, "soup", 0.9, 0.0, "linear", 1, 50, "e1", "champion",
                          ShadowAnswer(2, "cake", 0.8, 70, ""))  # fmt: skip
    other_arm = replace(query, arm="challenger", version=2)
    elsewhere = replace(query, experiment_id="e2")
    first, second = pairs_of([query, other_arm, elsewhere, replace(query, shadow=None)], "e1")
    assert (first.champion, first.challenger, first.champion_micros) == ("soup", "cake", 50)
    assert (second.champion, second.challenger, second.champion_micros) == ("cake", "soup", 70)


def test_what_was_seen_is_summed_up() -> None:
    pairs = [pair(1), pair(2, challenger="cake"), pair(3, arm="challenger"), pair(4, failed=True)]
    seen = observe(pairs, {"q1": ("soup",), "q2": ("soup",), "q4": ("soup",), "elsewhere": ("x",)})
    assert (
        seen.queries, seen.agreement, seen.errors, seen.challenger_answered, len(seen.judged)
    ) == (3, 2 / 3, 1, 1, 2)  # fmt: skip
    assert seen.accuracies == (1.0, 0.5)


def judged(right: int, wrong: int, challenger_right: int) -> Observed:
    """Feedback on right + wrong queries: the champion is right on the first, the challenger on the last."""
    total = right + wrong
    pairs = [
        pair(n, "soup" if n < right else "cake", "soup" if n >= total - challenger_right else "cake")
        for n in range(total)
    ]
    seen = observe(pairs, {both.query_id: ("soup",) for both in pairs})
    return replace(seen, queries=1000, agreement=0.9)


@pytest.mark.parametrize(
    ("seen", "failed"),
    [
        (judged(right=80, wrong=20, challenger_right=90), set()),
        (judged(right=90, wrong=10, challenger_right=89), set()),
        (
            judged(right=90, wrong=10, challenger_right=60),
            {
                "accuracy_not_worse",
                "accuracy_not_surely_worse",
                "macro_f1_not_worse",
                "macro_f1_not_surely_worse",
                "no_label_lost",
                "no_slice_lost",
            },
        ),
        (judged(right=20, wrong=9, challenger_right=29), {"enough_feedback"}),
        (replace(judged(80, 20, 90), agreement=0.3), {"enough_agreement"}),
        (replace(judged(80, 20, 90), errors=11), {"no_errors"}),
        (replace(judged(80, 20, 90), challenger_micros=6000.0), {"not_slower"}),
        (GOOD, {"enough_feedback"}),
    ],
)
def test_verdict_is_the_gates_on_feedback_and_agreement(seen: Observed, failed: set[str]) -> None:
    decision = verdict(seen, 1)
    assert (failed, not failed) == ({rule.name for rule in decision.rules if not rule.passed}, decision.passed)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (GOOD, ""),
        (replace(GOOD, errors=2, queries=10), ""),
        (replace(GOOD, errors=3, queries=10), "failed at 3 of 13"),
        (replace(GOOD, errors=10), ""),
        (replace(GOOD, errors=11), "failed at 11"),
        (replace(GOOD, challenger_micros=5_101), "slow"),
        (replace(GOOD, challenger_micros=5_101, queries=49), ""),
        (replace(GOOD, champion_micros=5_000, challenger_micros=14_000), ""),
    ],
)
async def test_experiment_ends_at_once_when_the_challenger_errs_or_slows(seen: Observed, expected: str) -> None:
    reason = reason_to_stop(seen)
    assert expected in reason
    assert bool(expected) == bool(reason)


async def passes(_manifest: pb.Manifest) -> list[pb.RuleResult]:
    return [pb.RuleResult(rule="rehearsal_loads", passed=True)]


class Bench:
    """A registry, queries and feedback, on which experiments are made."""

    def __init__(self, registry: ModelRegistry, url: str, target: str = "127.0.0.1:1") -> None:
        self.registry, self.database = registry, Database(url)
        self.feedback = FeedbackStore(self.database)
        self.experiments = Experiments(
            registry,
            Champion(registry, leases_of(registry), [target], passes),
            passes,
            QueryStore(self.database),
            self.feedback,
        )

    def answer(self, count: int, **shadow: object) -> None:
        experiment = self.registry.experiment.read()
        assert experiment is not None
        other: Mapping[str, object] = {"model_version": 2, "label": "soup", "latency_micros": 60, **shadow}
        keep(
            self.database,
            *(
                make_record(
                    f"q{n}",
                    f"some soup {n}",
                    labels=[{"label": "soup" if n % 2 else "cake", "confidence": 0.9}],
                    arm="champion",
                    experiment_id=experiment.experiment_id,
                    shadow=other,
                )
                for n in range(count)
            ),
        )


async def test_one_experiment_goes_on_at_a_time_and_survives_a_restart(
    registry: ModelRegistry, sqlite_url: str
) -> None:
    begun = await Bench(registry, sqlite_url).experiments.start(CANARY, 2, 0.0, "anna")
    assert (begun.share, begun.champion_version, begun.running) == (0.1, 1, True)
    restarted = Bench(registry, sqlite_url)
    with pytest.raises(ExperimentInProgress, match=begun.experiment_id):
        await restarted.experiments.start(SHADOW, 2, 0.0, "ben")
    assert registry.experiment.read() == begun


@pytest.mark.parametrize(
    ("kind", "version", "share", "error"),
    [
        (pb.EXPERIMENT_KIND_UNSPECIFIED, 2, 0.1, InvalidRequest),
        (SHADOW, 2, 1.5, InvalidRequest),
        (SHADOW, 2, -0.5, InvalidRequest),
        (SHADOW, 1, 0.5, InvalidRequest),
        (SHADOW, 99, 0.5, ModelVersionNotFound),
    ],
)
async def test_experiment_that_means_nothing_does_not_begin(
    registry: ModelRegistry,
    sqlite_url: str,
    kind: pb.ExperimentKind.ValueType,
    version: int,
    share: float,
    error: type[TrainerError],
) -> None:
    with pytest.raises(error):
        await Bench(registry, sqlite_url).experiments.start(kind, version, share, "")
    assert registry.experiment.read() is None


async def test_version_that_the_gate_refused_meets_no_caller(registry: ModelRegistry, sqlite_url: str) -> None:
    registry.records.write(replace(registry.records.list_newest(1)[0], decision_json='{"promoted": false}'))
    with pytest.raises(VersionRefused):
        await Bench(registry, sqlite_url).experiments.start(SHADOW, 2, 1.0, "")


async def test_winner_is_promoted_when_that_was_asked_for(registry: ModelRegistry, sqlite_url: str) -> None:
    replica = FakeReplica()
    async with running(replica, inference_pb2_grpc.add_InferenceServiceServicer_to_server) as address:
        bench = Bench(registry, sqlite_url, address)
        await bench.experiments.start(SHADOW, 2, 1.0, "anna")
        bench.answer(100)
        bench.feedback.add([Feedback(f"some soup {n}", ("soup",), f"q{n}") for n in range(100)])
        now = await bench.experiments.now()
        assert now is not None
        assert (
            now.result.queries, now.result.agreement, now.result.judged,
            now.result.champion_accuracy, now.result.challenger_accuracy,
        ) == (100, 0.5, 100, 0.5, 1.0)  # fmt: skip
        ended, promoted = await bench.experiments.stop("anna", "", promote=True)
    assert (promoted, replica.serving, ended.running) == (True, 2, False), ended.result.decision.rules
    assert "won experiment" in history_of(registry)[-1].reason
    assert [ended] == registry.experiment.list_newest(10)


async def test_undecided_challenger_is_not_promoted(registry: ModelRegistry, sqlite_url: str) -> None:
    bench = Bench(registry, sqlite_url)
    await bench.experiments.start(SHADOW, 2, 1.0, "anna")
    bench.answer(100)
    ended, promoted = await bench.experiments.stop("anna", "enough", promote=True)
    assert (promoted, ended.reason, ended.result.decision.promoted) == (False, "enough", False)
    alias = registry.alias.read()
    assert alias is not None
    assert alias.version == 1
    with pytest.raises(NoExperiment):
        await bench.experiments.stop("anna", "", promote=False)


@pytest.mark.parametrize(
    ("shadow", "reason"), [({"error": "RuntimeError"}, "failed at 60"), ({"latency_micros": 9000}, "slow")]
)
async def test_challenger_that_errs_or_slows_is_stopped_by_itself(
    registry: ModelRegistry, sqlite_url: str, shadow: dict[str, object], reason: str
) -> None:
    bench = Bench(registry, sqlite_url)
    await bench.experiments.start(CANARY, 2, 0.5, "anna")
    await bench.experiments.watch_once()
    bench.answer(60, **shadow)
    await bench.experiments.watch_once()
    ended = registry.experiment.read()
    assert ended is not None
    assert (ended.running, reason in ended.reason) == (False, True)


async def test_another_champion_ends_the_experiment(registry: ModelRegistry, sqlite_url: str) -> None:
    bench = Bench(registry, sqlite_url)
    await bench.experiments.start(CANARY, 2, 0.5, "anna")
    promote(registry, 2)
    await bench.experiments.watch_once()
    ended = registry.experiment.read()
    assert ended is not None
    assert (ended.running, ended.reason) == (False, "the champion changed")


async def test_challenger_is_kept_while_it_is_on_trial(registry: ModelRegistry, sqlite_url: str) -> None:
    registry = open_registry(registry.folder.parent, keep_versions=1)
    await Bench(registry, sqlite_url).experiments.start(SHADOW, 2, 1.0, "")
    registry.prune()
    assert 2 in registry.versions.numbers()
