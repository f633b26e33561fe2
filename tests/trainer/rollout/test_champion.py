import pytest
from filelock import FileLock
from moodfood.inference.v1 import inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import (
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
from tests.fakes import FakeReplica, running

pytestmark = pytest.mark.anyio

ADD = inference_pb2_grpc.add_InferenceServiceServicer_to_server
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "STARTING_ATTEMPTS", 2)
    monkeypatch.setattr(rollout, "BUSY_PAUSE_SECONDS", 0.01)


def alias_of(registry: ModelRegistry) -> tuple[int, int, int]:
    alias = registry.champion()
    assert alias is not None
    return alias.version, alias.generation, alias.previous


async def test_promotion_swaps_every_replica_then_moves_the_alias(registry: ModelRegistry) -> None:
    one, two = FakeReplica(), FakeReplica()
    async with running(one, ADD) as first, running(two, ADD) as second:
        change = await Champion(registry, [first, second]).promote(2, "anna", "better")
    assert [(2, 2)] == one.reloads == two.reloads
    assert alias_of(registry) == (2, 2, 1)
    assert [replica.version for replica in change.replicas] == [2, 2]
    last = registry.history()[-1]
    assert (last.by, last.reason, last.from_version, last.to_version) == ("anna", "better", 1, 2)


async def test_replica_that_refuses_to_prepare_leaves_everybody_as_they_are(registry: ModelRegistry) -> None:
    willing, refusing = FakeReplica(), FakeReplica(refuses=frozenset({2}))
    before = alias_of(registry)
    async with running(willing, ADD) as first, running(refusing, ADD) as second:
        with pytest.raises(ReplicaRejected, match="probe") as raised:
            await Champion(registry, [first, second]).promote(2, "anna", "better")
    assert (before, [], []) == (alias_of(registry), willing.reloads, refusing.reloads)
    assert [(each.target, bool(each.problem)) for each in raised.value.replicas] == [(first, False), (second, True)]
    assert registry.pending() is None


async def test_replica_that_refuses_to_commit_sends_everybody_back(registry: ModelRegistry) -> None:
    willing, refusing = FakeReplica(), FakeReplica(refuses_to_commit=frozenset({2}))
    async with running(willing, ADD) as first, running(refusing, ADD) as second:
        with pytest.raises(ReplicaRejected, match="probe") as raised:
            await Champion(registry, [first, second]).promote(2, "anna", "better")
    version, generation, _ = alias_of(registry)
    assert version == 1 == willing.serving == refusing.serving
    assert generation > willing.reloads[0][1]
    assert registry.history()[-1].action == pb.HISTORY_ACTION_REASSERTED
    assert raised.value.replicas[0].problem == "swapped and was sent back"


async def test_disk_that_takes_no_alias_sends_everybody_back(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = FakeReplica()

    def full(*_arguments: object) -> pb.ChampionAlias:
        raise StorageFailed("cannot write champion: No space left on device")

    monkeypatch.setattr(registry, "move_alias", full)
    async with running(replica, ADD) as address:
        with pytest.raises(StorageFailed):
            await Champion(registry, [address]).promote(2, "anna", "better")
        assert replica.serving == 1 == alias_of(registry)[0]
        monkeypatch.undo()
        monkeypatch.setattr(rollout, "STARTING_ATTEMPTS", 2)
        await Champion(registry, [address]).promote(2, "anna", "the disk has room again")
    assert replica.serving == 2 == alias_of(registry)[0]


async def test_replica_ahead_of_the_alias_is_called_back_when_the_trainer_starts(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    replica.reloads.append((2, 9))
    async with running(replica, ADD) as address:
        await Champion(registry, [address]).recover()
    version, generation, _ = alias_of(registry)
    assert (1, 10) == (version, generation) == replica.reloads[-1]


async def test_only_one_trainer_on_a_store_changes_the_champion_at_a_time(registry: ModelRegistry) -> None:
    with FileLock(registry.folder / ".changing", thread_local=False), pytest.raises(PromotionInProgress):
        await Champion(registry, [NOBODY]).promote(2, "anna", "")
    assert alias_of(registry)[0] == 1


async def test_history_tells_what_the_gate_measured(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        await Champion(registry, [address]).promote(2, "anna", "better")
    assert [rule.rule for rule in registry.decision(2).rules] == [r.rule for r in registry.history()[-1].rules]
    assert registry.history()[-1].rules


async def test_replica_that_is_away_does_not_stop_a_promotion(registry: ModelRegistry) -> None:
    there = FakeReplica()
    async with running(there, ADD) as address:
        change = await Champion(registry, [NOBODY, address]).promote(2, "anna", "", must_reach=True)
    assert alias_of(registry)[0] == 2 == there.serving
    assert [bool(replica.problem) for replica in change.replicas] == [True, False]


async def test_run_that_reaches_no_replica_promotes_nothing(registry: ModelRegistry) -> None:
    with pytest.raises(NoReplicaReached):
        await Champion(registry, [NOBODY]).promote(2, "run", "", must_reach=True)
    assert alias_of(registry)[0] == 1


async def test_version_that_the_gate_refused_cannot_be_promoted(registry: ModelRegistry) -> None:
    path = registry.folder / "2" / "decision.json"
    path.write_text('{"promoted": false, "rules": [{"rule": "golden_all_right", "passed": false}]}')
    with pytest.raises(VersionRefused, match="golden_all_right"):
        await Champion(registry, [NOBODY]).promote(2, "anna", "")
    with pytest.raises(ModelVersionNotFound):
        await Champion(registry, [NOBODY]).promote(99, "anna", "")
    assert alias_of(registry) == (1, 1, 0)


async def test_rollback_brings_the_former_champion_back_once_and_goes_further_twice(registry: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        champion = Champion(registry, [address])
        await champion.promote(2, "anna", "")
        change = await champion.roll_back("ben", "answers got worse")
        with pytest.raises(NoFormerChampion):
            await champion.roll_back("ben", "again")
    assert 1 == change.alias.version == replica.serving
    last = registry.history()[-1]
    assert (last.action, last.by, last.reason) == (pb.HISTORY_ACTION_ROLLED_BACK, "ben", "answers got worse")


async def test_dns_target_means_every_address_of_the_name() -> None:
    assert "127.0.0.1:50051" in await rollout.resolve(["dns:///localhost:50051"])
    assert await rollout.resolve(["dns:///no.such.host.invalid:1"]) == []
    assert await rollout.resolve(["10.0.0.1:5"]) == ["10.0.0.1:5"]
