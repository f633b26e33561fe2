import asyncio
from dataclasses import replace

import pytest
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as pb

from services.repository.errors import RepositoryUnavailable
from services.trainer.database.leases import CHAMPION
from services.trainer.errors import (
    ChampionChanged,
    ModelVersionNotFound,
    NoFormerChampion,
    NoReplicaReached,
    PromotionInProgress,
    ReplicaRejected,
    StorageFailed,
    VersionRefused,
)
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout import replicas as rollout
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.rollout.rehearsal import Rehearse, ensure_rehearsed
from tests.fakes import FakeReplica, running
from tests.registries import history_of, leases_of, promote

pytestmark = pytest.mark.anyio

ADD = inference_pb2_grpc.add_InferenceServiceServicer_to_server
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "STARTING_ATTEMPTS", 2)
    monkeypatch.setattr(rollout, "BUSY_PAUSE_SECONDS", 0.01)


async def passes(_manifest: pb.Manifest) -> list[pb.RuleResult]:
    return [pb.RuleResult(rule="rehearsal_loads", passed=True)]


async def fails(_manifest: pb.Manifest) -> list[pb.RuleResult]:
    return [pb.RuleResult(rule="rehearsal_loads", passed=False, detail="inference crashed")]


def make_champion(registry: ModelRegistry, *targets: str, rehearse: Rehearse = passes) -> Champion:
    return Champion(registry, leases_of(registry), targets, rehearse)


def gate_refuses(registry: ModelRegistry, version: int) -> None:
    """Write that the gate refused a version, as if it had always been so."""
    decision = '{"promoted": false, "rules": [{"rule": "golden_all_right", "passed": false}]}'
    registry.records.write(replace(registry.records.list_newest(10)[-version], decision_json=decision))


def alias_of(registry: ModelRegistry) -> tuple[int, int, int]:
    alias = registry.alias.read()
    assert alias is not None
    return alias.version, alias.generation, alias.previous


async def test_promotion_swaps_every_replica_then_moves_the_alias(registry: ModelRegistry) -> None:
    one, two = FakeReplica(), FakeReplica()
    async with running(one, ADD) as first, running(two, ADD) as second:
        changed = await make_champion(registry, first, second).promote(Change(2, 1, "anna", "better"))
    assert [(2, 2)] == one.reloads == two.reloads
    assert alias_of(registry) == (2, 2, 1)
    assert [replica.version for replica in changed.replicas] == [2, 2]
    last = history_of(registry)[-1]
    assert (last.by, last.reason, last.from_version, last.to_version) == ("anna", "better", 1, 2)


async def test_replica_that_refuses_to_prepare_leaves_everybody_as_they_are(registry: ModelRegistry) -> None:
    willing, refusing = FakeReplica(), FakeReplica(refuses=frozenset({2}))
    before = alias_of(registry)
    async with running(willing, ADD) as first, running(refusing, ADD) as second:
        with pytest.raises(ReplicaRejected, match="probe") as raised:
            await make_champion(registry, first, second).promote(Change(2, 1, "anna", "better"))
    assert (before, [], []) == (alias_of(registry), willing.reloads, refusing.reloads)
    assert [(replica.target, bool(replica.error)) for replica in raised.value.replicas] == [
        (first, False),
        (second, True),
    ]
    assert registry.alias.pending() is None


async def test_replica_that_refuses_to_commit_sends_everybody_back(registry: ModelRegistry) -> None:
    willing, refusing = FakeReplica(), FakeReplica(refuses_to_commit=frozenset({2}))
    async with running(willing, ADD) as first, running(refusing, ADD) as second:
        with pytest.raises(ReplicaRejected, match="probe") as raised:
            await make_champion(registry, first, second).promote(Change(2, 1, "anna", "better"))
    version, generation, _ = alias_of(registry)
    assert version == 1 == willing.serving == refusing.serving
    assert generation > willing.reloads[0][1]
    assert history_of(registry)[-1].action == pb.HISTORY_ACTION_REASSERTED
    assert raised.value.replicas[0].error == "swapped, then went back because another replica refused"


async def test_disk_that_takes_no_alias_sends_everybody_back(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = FakeReplica()

    def full(*_: object) -> None:
        raise RepositoryUnavailable("cannot write champion: No space left on device")

    async with running(replica, ADD) as address:
        with monkeypatch.context() as patched:
            patched.setattr(registry.repository, "swap", full)
            with pytest.raises(StorageFailed, match="No space left"):
                await make_champion(registry, address).promote(Change(2, 1, "anna", "better"))
        assert replica.serving == 1 == alias_of(registry)[0]
        await make_champion(registry, address).promote(Change(2, 1, "anna", "the disk has room again"))
    assert replica.serving == 2 == alias_of(registry)[0]


async def test_replica_ahead_of_the_alias_is_called_back_when_the_trainer_starts(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    replica.reloads.append((2, 9))
    async with running(replica, ADD) as address:
        await make_champion(registry, address).recover()
    version, generation, _ = alias_of(registry)
    assert (1, 10) == (version, generation) == replica.reloads[-1]


async def test_only_one_trainer_on_a_store_changes_the_champion_at_a_time(registry: ModelRegistry) -> None:
    lease = leases_of(registry).take(CHAMPION)
    assert lease is not None
    with pytest.raises(PromotionInProgress):
        await make_champion(registry, NOBODY).promote(Change(2, 1, "anna", ""))
    assert alias_of(registry) == (1, 1, 0)


async def test_two_promotions_at_once_in_one_trainer_make_one_change(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        champion = make_champion(registry, address)
        outcomes = await asyncio.gather(
            champion.promote(Change(2, 1, "anna", "")),
            champion.promote(Change(2, 1, "ben", "")),
            champion.roll_back("carl", ""),
            return_exceptions=True,
        )
    assert len([outcome for outcome in outcomes if not isinstance(outcome, Exception)]) == 1, outcomes
    assert PromotionInProgress in {type(outcome) for outcome in outcomes}
    assert alias_of(registry) == (2, 2, 1)
    assert replica.reloads == [(2, 2)]


async def test_promotion_decided_against_another_champion_changes_nothing(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        champion = make_champion(registry, address)
        await champion.promote(Change(2, 1, "anna", ""))
        with pytest.raises(ChampionChanged, match="version 2 serves now"):
            await champion.promote(Change(1, 1, "training run", "decided while version 1 served"))
    assert alias_of(registry) == (2, 2, 1)
    assert [(2, 2)] == replica.prepared == replica.reloads


async def test_champion_that_changes_during_the_rehearsal_stops_the_promotion(registry: ModelRegistry) -> None:
    async def somebody_else_promotes(_manifest: pb.Manifest) -> list[pb.RuleResult]:
        promote(registry, 2)
        return await passes(_manifest)

    with pytest.raises(ChampionChanged):
        await make_champion(registry, rehearse=somebody_else_promotes).promote(Change(2, 1, "anna", ""))
    assert alias_of(registry) == (2, 2, 1)


async def test_two_people_who_roll_back_at_once_go_back_one_champion(registry: ModelRegistry) -> None:
    promote(registry, 2)
    champion = make_champion(registry)
    await champion.roll_back("anna", "", expected=2)
    with pytest.raises((ChampionChanged, NoFormerChampion)):
        await champion.roll_back("ben", "", expected=2)
    assert alias_of(registry)[0] == 1


async def test_rollback_waits_for_no_rehearsal_and_asks_no_gate_again(registry: ModelRegistry) -> None:
    promote(registry, 2)
    gate_refuses(registry, 1)
    champion = make_champion(registry, rehearse=fails)
    assert (await champion.roll_back("anna", "")).alias.version == 1


async def test_version_that_was_only_validated_is_rehearsed_before_it_is_promoted(registry: ModelRegistry) -> None:
    with pytest.raises(VersionRefused, match="rehearsal_loads"):
        await make_champion(registry, rehearse=fails).promote(Change(2, 1, "anna", ""))
    assert alias_of(registry)[0] == 1
    last = history_of(registry)[-1]
    assert (last.action, last.to_version) == (pb.HISTORY_ACTION_REFUSED, 2)
    assert not registry.versions.decision(2).promoted
    with pytest.raises(VersionRefused):
        await make_champion(registry, rehearse=passes).promote(Change(2, 1, "anna", "once more"))


async def test_version_is_rehearsed_once(registry: ModelRegistry) -> None:
    asked: list[int] = []

    async def note(manifest: pb.Manifest) -> list[pb.RuleResult]:
        asked.append(manifest.version)
        return await passes(manifest)

    for _ in range(2):
        await ensure_rehearsed(registry, note, 2, "anna")
    await ensure_rehearsed(registry, note, 1, "the champion has served")
    assert asked == [2]
    with pytest.raises(ModelVersionNotFound):
        await ensure_rehearsed(registry, note, 99, "anna")


async def test_history_tells_what_the_gate_measured(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        await make_champion(registry, address).promote(Change(2, 1, "anna", "better"))
    assert [rule.rule for rule in registry.versions.decision(2).rules] == [
        r.rule for r in history_of(registry)[-1].rules
    ]
    assert history_of(registry)[-1].rules


async def test_replica_that_is_away_does_not_stop_a_promotion(registry: ModelRegistry) -> None:
    there = FakeReplica()
    async with running(there, ADD) as address:
        changed = await make_champion(registry, NOBODY, address).promote(Change(2, 1, "anna", "", must_reach=True))
    assert alias_of(registry)[0] == 2 == there.serving
    assert [bool(replica.problem) for replica in changed.replicas] == [True, False]


async def test_run_that_reaches_no_replica_promotes_nothing(registry: ModelRegistry) -> None:
    with pytest.raises(NoReplicaReached):
        await make_champion(registry, NOBODY).promote(Change(2, 1, "run", "", must_reach=True))
    assert alias_of(registry)[0] == 1


async def test_version_that_the_gate_refused_cannot_be_promoted(registry: ModelRegistry) -> None:
    gate_refuses(registry, 2)
    with pytest.raises(VersionRefused, match="golden_all_right"):
        await make_champion(registry, NOBODY).promote(Change(2, 1, "anna", ""))
    with pytest.raises(ModelVersionNotFound):
        await make_champion(registry, NOBODY).promote(Change(99, 1, "anna", ""))
    assert alias_of(registry) == (1, 1, 0)


async def test_rollback_brings_the_former_champion_back_once_and_goes_further_twice(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        champion = make_champion(registry, address)
        await champion.promote(Change(2, 1, "anna", ""))
        changed = await champion.roll_back("ben", "answers got worse")
        with pytest.raises(NoFormerChampion):
            await champion.roll_back("ben", "again")
    assert 1 == changed.alias.version == replica.serving
    last = history_of(registry)[-1]
    assert (last.action, last.by, last.reason) == (pb.HISTORY_ACTION_ROLLED_BACK, "ben", "answers got worse")


async def test_dns_target_means_every_address_of_the_name() -> None:
    assert "127.0.0.1:50051" in await rollout.resolve(["dns:///localhost:50051"])
    assert await rollout.resolve(["dns:///no.such.host.invalid:1"]) == []
    assert await rollout.resolve(["10.0.0.1:5"]) == ["10.0.0.1:5"]
