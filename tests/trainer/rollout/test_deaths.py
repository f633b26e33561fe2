"""Trainers that die, are stopped or are cut off in the middle of a promotion, and what the next one makes of it."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc
from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import update

from services.repository.errors import RepositoryUnavailable
from services.repository.folder import FolderRepository
from services.trainer.database import leases as lease_module
from services.trainer.database.database import Database
from services.trainer.database.tables import leases
from services.trainer.errors import ChampionChanged, PromotionInProgress, StorageFailed
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout import champion as champion_module
from services.trainer.rollout import replicas as rollout
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.rollout.rehearsal import ensure_rehearsed
from tests.fakes import FakeReplica, running
from tests.registries import database_beside, history_of, leases_of, open_registry
from tests.trainer.runs.runners import passes

pytestmark = pytest.mark.anyio

ADD = inference_pb2_grpc.add_InferenceServiceServicer_to_server


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "BUSY_PAUSE_SECONDS", 0.01)


@pytest.fixture
async def rehearsed(registry: ModelRegistry) -> ModelRegistry:
    """A registry whose version 2 was rehearsed."""
    await ensure_rehearsed(registry, passes, 2, "test")
    return registry


def trainer(registry: ModelRegistry, *targets: str) -> tuple[ModelRegistry, Champion]:
    """Return the registry and the champion of another trainer, with connections of its own."""
    opened = open_registry(registry.folder.parent)
    return opened, Champion(opened, leases_of(opened), targets, passes)


def dies(subject: object, name: str, *, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call die before or after it did its work."""
    real: Callable[..., Any] = getattr(subject, name)

    def killed(*arguments: Any, **named: Any) -> None:
        if not before:
            real(*arguments, **named)
        raise Killed

    monkeypatch.setattr(subject, name, killed)


@pytest.mark.parametrize(
    ("part", "call", "before", "champion"),
    [
        ("alias", "next_generation", False, 1),
        ("alias", "begin_move", True, 1),
        ("alias", "begin_move", False, 1),
        ("alias", "finish_move", True, 1),
        ("repository", "swap", False, 2),
        ("history", "add_rules", False, 2),
        ("history", "add_change", False, 2),
        ("alias", "finish_move", False, 2),
    ],
)
async def test_trainer_killed_between_any_two_steps_leaves_one_champion_and_a_whole_history(
    rehearsed: ModelRegistry, monkeypatch: pytest.MonkeyPatch, part: str, call: str, before: bool, champion: int
) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        dying, its_champion = trainer(rehearsed, address)
        dies(getattr(dying, part), call, before=before, monkeypatch=monkeypatch)
        with pytest.raises(Killed):
            await its_champion.promote(Change(2, 1, "anna", "better"))
        registry, next_champion = trainer(rehearsed, address)
        await next_champion.recover()
        alias = registry.alias.read()
        assert alias is not None
        assert champion == alias.version
        assert replica.serving in {0, champion}
        assert registry.alias.pending() is None
        changes = [entry for entry in history_of(registry) if entry.action != pb.HISTORY_ACTION_REFUSED]
        assert (alias.version, alias.generation) == (changes[-1].to_version, changes[-1].generation)
        assert len({entry.generation for entry in changes}) == len(changes)
        assert ("anna" in [entry.by for entry in changes]) == (champion == 2)
        other = 3 - champion
        changed = await next_champion.promote(Change(other, champion, "ben", "once more"))
    assert other == changed.alias.version == replica.serving
    assert changed.alias.generation > alias.generation


async def test_of_two_trainers_that_promote_at_once_one_wins(rehearsed: ModelRegistry) -> None:
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        outcomes = await asyncio.gather(
            *(trainer(rehearsed, address)[1].promote(Change(2, 1, name, "")) for name in ("anna", "ben", "carl")),
            return_exceptions=True,
        )
    assert len([each for each in outcomes if not isinstance(each, BaseException)]) == 1, outcomes
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert {type(each) for each in refused} <= {PromotionInProgress, ChampionChanged}
    assert replica.reloads == [(2, 2)]
    assert [entry.to_version for entry in history_of(rehearsed)] == [1, 2]


async def test_trainer_that_lost_its_lease_gives_up_and_sends_replicas_back(
    rehearsed: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.01)
    database, real = database_beside(rehearsed.folder.parent), rehearsed.alias.begin_move

    def is_cut_off(*arguments: Any, **named: Any) -> Any:
        move = real(*arguments, **named)
        with database.write() as connection:
            connection.execute(update(leases).values(token=leases.c.token + 1, holder="elsewhere|1|x"))
        time.sleep(0.2)
        return move

    monkeypatch.setattr(rehearsed.alias, "begin_move", is_cut_off)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        with pytest.raises(PromotionInProgress):
            await Champion(rehearsed, leases_of(rehearsed), [address], passes).promote(Change(2, 1, "anna", ""))
        assert replica.reloads == [(2, 2), (1, 2)]
        assert rehearsed.alias.version() == 1
        with database.write() as connection:
            connection.execute(update(leases).values(expires_at=0))
        await trainer(rehearsed, address)[1].recover()
    assert replica.reloads[-1] == (1, 3)
    assert history_of(rehearsed)[-1].action == pb.HISTORY_ACTION_REASSERTED


class SlowReplica(FakeReplica):
    """Waits in one phase until it is told to go on."""

    def __init__(self, phase: inference_pb2.ReloadPhase.ValueType) -> None:
        super().__init__()
        self._phase, self.reached, self.go_on = phase, asyncio.Event(), asyncio.Event()

    async def ReloadModel(self, request: Any, context: Any) -> inference_pb2.ReloadModelResponse:
        if request.phase == self._phase:
            self.reached.set()
            await self.go_on.wait()
        return await super().ReloadModel(request, context)


async def test_caller_that_goes_away_while_replicas_swap_does_not_stop_the_change(rehearsed: ModelRegistry) -> None:
    replica = SlowReplica(inference_pb2.RELOAD_PHASE_COMMIT)
    async with running(replica, ADD) as address:
        _, champion = trainer(rehearsed, address)
        change = asyncio.create_task(champion.promote(Change(2, 1, "anna", "")))
        await replica.reached.wait()
        change.cancel()
        await asyncio.sleep(0.05)
        assert champion.committing
        with pytest.raises(PromotionInProgress):
            await champion.promote(Change(2, 1, "ben", ""))
        replica.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await change
        assert (replica.serving, rehearsed.alias.version(), rehearsed.alias.pending()) == (2, 2, None)
        await champion.roll_back("anna", "the lease is free again")


async def test_change_that_is_cancelled_before_replicas_swap_leaves_no_trace(rehearsed: ModelRegistry) -> None:
    replica = SlowReplica(inference_pb2.RELOAD_PHASE_PREPARE)
    async with running(replica, ADD) as address:
        _, champion = trainer(rehearsed, address)
        change = asyncio.create_task(champion.promote(Change(2, 1, "anna", "")))
        await replica.reached.wait()
        assert not champion.committing
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        replica.go_on.set()
        assert (rehearsed.alias.pending(), rehearsed.alias.next_generation()) == (None, 2)
        await champion.promote(Change(2, 1, "ben", "the lease is free again"))


async def test_change_that_a_dead_trainer_left_is_taken_back_by_a_living_one(
    rehearsed: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champion_module, "WATCH_EVERY_SECONDS", 0.01)
    replica = FakeReplica()
    async with running(replica, ADD) as address:
        rehearsed.alias.begin_move(2, 2, pb.HISTORY_ACTION_PROMOTED, "dead", "", expected=1)
        replica.reloads.append((2, 2))
        registry, champion = trainer(rehearsed, address)
        watching = asyncio.create_task(champion.watch())
        while await asyncio.to_thread(registry.alias.pending):
            await asyncio.sleep(0.01)
        while replica.reloads[-1] != (1, 3):
            await asyncio.sleep(0.01)
        watching.cancel()
    assert rehearsed.alias.version() == 1


async def test_replicas_follow_an_alias_that_moved_although_nobody_could_tell(
    rehearsed: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the swap is lost, and the repository is away: replicas are sent back, yet the alias has moved."""
    replica, real = FakeReplica(), rehearsed.repository.swap

    def away(*_: object) -> None:
        raise RepositoryUnavailable("cannot read champion: no answer")

    def loses_the_answer(*arguments: Any) -> None:
        real(*arguments)
        monkeypatch.setattr(rehearsed.repository, "read", away)
        away()

    async with running(replica, ADD) as address:
        monkeypatch.setattr(rehearsed.repository, "swap", loses_the_answer)
        with pytest.raises(StorageFailed):
            await Champion(rehearsed, leases_of(rehearsed), [address], passes).promote(Change(2, 1, "anna", ""))
        assert replica.serving == 1
        registry, champion = trainer(rehearsed, address)
        await champion.recover()
    assert replica.reloads[-1] == (2, 2)
    assert registry.alias.version() == 2
    assert [entry.by for entry in history_of(registry)] == ["test", "anna"]


async def test_nothing_of_a_change_blocks_the_event_loop(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loop_thread, asked = threading.get_ident(), set[str]()

    def watched(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            assert threading.get_ident() != loop_thread, f"{name} on the event loop"
            asked.add(name)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    replica = FakeReplica()
    async with running(replica, ADD) as address:
        champion = Champion(registry, leases_of(registry), [address], passes)
        for owner, names in ((Database, ("read", "write")), (FolderRepository, ("read", "swap"))):
            for name in names:
                watched(owner, name)
        await champion.promote(Change(2, 1, "anna", ""))
        await champion.roll_back("anna", "")
        await champion.recover()
    assert asked == {"read", "write", "swap"}
