"""Moves of the alias, history, experiments and version numbers, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import event

from services.repository.errors import Changed, RepositoryUnavailable
from services.trainer.database.database import Database
from services.trainer.errors import (
    ChampionChanged,
    ExperimentInProgress,
    NoExperiment,
    PromotionInProgress,
    StorageFailed,
)
from services.trainer.registry.alias import SKIPPED_GENERATIONS
from services.trainer.registry.moves import PendingMove
from services.trainer.registry.registry import ModelRegistry
from tests.registries import history_of, promote

PROMOTED, ROLLED_BACK = pb.HISTORY_ACTION_PROMOTED, pb.HISTORY_ACTION_ROLLED_BACK


def contents(version: int) -> dict[str, bytes]:
    manifest = f'{{"model": "m", "version": {version}}}'.encode()
    return {"manifest.json": manifest, "evaluation.json": b"{}", "decision.json": b"{}"}


@pytest.fixture
def registry(database: Database, tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path, "m", 10, database)


@pytest.fixture
def other(database_url: str, tmp_path: Path) -> Iterator[ModelRegistry]:
    """The registry of another trainer."""
    opened = Database(database_url)
    yield ModelRegistry(tmp_path, "m", 10, opened)
    opened.close()


def move_to(registry: ModelRegistry, version: int, expected: int, action: pb.HistoryAction.ValueType) -> None:
    registry.alias.move(version, registry.alias.next_generation(), action, "anna", "why", expected=expected)


def test_history_answers_from_its_newest_entries(registry: ModelRegistry) -> None:
    promote(registry, 1)
    registry.history.record_refusal(2, registry.alias.read(), "gate", "too slow")
    move_to(registry, 3, 1, PROMOTED)
    move_to(registry, 1, 3, ROLLED_BACK)
    history = registry.history
    assert [(entry.to_version, entry.generation) for entry in history_of(registry)] == [(1, 1), (2, 1), (3, 2), (1, 3)]
    newest = history.entries(2)
    assert [entry.to_version for entry in newest.values()] == [1, 3]
    assert [entry.to_version for entry in history.entries(2, before=min(newest)).values()] == [2, 1]
    assert (history.highest_version(), history.highest_generation()) == (3, 3)
    assert [history.has_served(version) for version in (1, 2, 3)] == [True, False, True]
    assert [history.champion_before(version) for version in (1, 2, 3)] == [0, 0, 1]
    last = history.last_change()
    assert last is not None
    assert (last.action, last.by, last.reason) == (ROLLED_BACK, "anna", "why")


def test_models_in_one_database_know_nothing_of_one_another(registry: ModelRegistry, database: Database) -> None:
    registry.versions.register(contents)
    promote(registry, 1)
    another = ModelRegistry(registry.folder.parent, "another", 10, database)
    assert (another.versions.list_newest(5), another.alias.next_generation(), history_of(another)) == ([], 1, [])
    assert another.versions.register(contents) == 1


def test_two_trainers_that_register_at_once_get_two_numbers(registry: ModelRegistry, other: ModelRegistry) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda each: each.versions.register(contents), [registry, other] * 4))
    assert sorted(numbers) == list(range(1, 9))
    assert [record.version for record in registry.versions.list_newest(10)] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert [record.version for record in registry.versions.list_newest(2)] == [8, 7]


def test_generation_is_given_to_one_trainer(registry: ModelRegistry, other: ModelRegistry) -> None:
    promote(registry, 1)
    generation = registry.alias.next_generation()
    assert generation == other.alias.next_generation() == 2
    move = registry.alias.begin_move(2, generation, PROMOTED, "anna", "", expected=1)
    with pytest.raises(PromotionInProgress):
        other.alias.begin_move(3, generation, PROMOTED, "ben", "", expected=1)
    assert other.alias.next_generation() == 3
    assert registry.alias.finish_move(move).version == 2 == other.alias.version()


def test_of_two_moves_that_both_began_the_later_one_fails(registry: ModelRegistry, other: ModelRegistry) -> None:
    """As when a trainer was stopped for so long that another one took its lease over."""
    promote(registry, 1)
    late = registry.alias.begin_move(2, 2, PROMOTED, "anna", "", expected=1)
    move_to(other, 3, 1, PROMOTED)
    move_to(other, 1, 3, ROLLED_BACK)
    before = other.alias.read()
    with pytest.raises(ChampionChanged):
        registry.alias.finish_move(late)
    assert before == registry.alias.read()
    assert registry.alias.pending() is None
    assert [entry.generation for entry in history_of(registry)] == [1, 3, 4]


def test_generation_that_is_not_above_the_alias_is_refused(registry: ModelRegistry) -> None:
    promote(registry, 1)
    with pytest.raises(ChampionChanged):
        registry.alias.begin_move(2, 1, PROMOTED, "anna", "", expected=1)


def test_rollback_leads_to_the_champion_before_and_never_back_and_forth(registry: ModelRegistry) -> None:
    for version, expected in ((1, 0), (2, 1), (3, 2)):
        move_to(registry, version, expected, PROMOTED)
    for version, expected, previous in ((2, 3, 1), (1, 2, 0)):
        move_to(registry, version, expected, ROLLED_BACK)
        alias = registry.alias.read()
        assert alias is not None
        assert previous == alias.previous


def test_alias_that_moved_without_its_history_is_completed_exactly(
    registry: ModelRegistry, other: ModelRegistry, database: Database
) -> None:
    for version, expected in ((1, 0), (2, 1)):
        move_to(registry, version, expected, PROMOTED)
    move = registry.alias.begin_move(1, 3, ROLLED_BACK, "anna", "worse", expected=2)
    with away(database):
        assert registry.alias.finish_move(move).version == 1 == other.alias.version()
    assert [entry.generation for entry in history_of(other)] == [1, 2]
    for _ in range(2):
        other.repair()
    last = history_of(other)[-1]
    assert (
        last.generation, last.action, last.from_version, last.to_version, last.by, last.reason,
    ) == (3, ROLLED_BACK, 2, 1, "anna", "worse")  # fmt: skip
    assert len(history_of(other)) == 3
    assert other.alias.pending() is None


class away:  # noqa: N801 - reads as a sentence
    """Refuse what one trainer writes into a database for as long as the block lasts."""

    def __init__(self, database: Database) -> None:
        self._engine = database._engine

    def refuse(self, *_: object) -> None:
        raise StorageFailed("the database cannot be reached or used")

    def __enter__(self) -> None:
        event.listen(self._engine, "begin", self.refuse, insert=True)

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "begin", self.refuse)


def test_missing_history_is_written_before_the_next_move(
    registry: ModelRegistry, other: ModelRegistry, database: Database
) -> None:
    move = registry.alias.begin_move(1, 1, PROMOTED, "anna", "", expected=0)
    with away(database):
        registry.alias.finish_move(move)
    move_to(other, 2, 1, PROMOTED)
    assert [(entry.from_version, entry.to_version) for entry in history_of(other)] == [(0, 1), (1, 2)]


def test_move_that_another_trainer_completes_meanwhile_is_in_the_history_once(
    registry: ModelRegistry, other: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.history.add_rules

    def is_slower(entry: pb.HistoryEntry) -> None:
        other.repair()
        real(entry)

    monkeypatch.setattr(registry.history, "add_rules", is_slower)
    promote(registry, 1)
    assert [(entry.to_version, entry.generation) for entry in history_of(registry)] == [(1, 1)]


def test_alias_ahead_of_a_restored_database_is_noted_and_its_generation_is_not_used_again(
    registry: ModelRegistry, database: Database, database_url: str
) -> None:
    promote(registry, 1)
    alias = pb.ChampionAlias(version=4, generation=9, previous=1, by="anna")
    stored = registry.repository.read("champion")
    assert stored is not None
    registry.repository.swap("champion", b'{"version": 4, "generation": 9, "previous": 1, "by": "anna"}', stored.tag)
    registry.repair()
    assert alias == registry.alias.read()
    last = history_of(registry)[-1]
    assert (last.action, last.from_version, last.to_version, last.generation) == (PROMOTED, 1, 4, 9)
    # Replicas may have followed generations that neither alias nor database know. None of them is taken again.
    assert registry.alias.pending() == PendingMove(0, 9 + SKIPPED_GENERATIONS)
    assert registry.alias.next_generation() == 9 + SKIPPED_GENERATIONS + 1


def test_swap_whose_answer_was_lost_counts_when_the_alias_has_moved(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.repository.swap

    def loses_the_answer(*arguments: object) -> str:
        real(*arguments)  # type: ignore[arg-type]
        raise RepositoryUnavailable("cannot write champion: no answer")

    monkeypatch.setattr(registry.repository, "swap", loses_the_answer)
    assert promote(registry, 1).generation == 1
    assert [entry.to_version for entry in history_of(registry)] == [1]


@pytest.mark.parametrize("call", ["read", "swap"])
def test_repository_that_is_away_is_a_failure_of_the_storage(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    promote(registry, 1)

    def away(*_: object) -> None:
        raise RepositoryUnavailable(f"cannot {call} champion: the object store gave no usable answer in time")

    with monkeypatch.context() as patched:
        patched.setattr(registry.repository, call, away)
        with pytest.raises(StorageFailed, match="the object store gave no usable answer in time"):
            promote(registry, 2)
    assert registry.alias.version() == 1


def experiment(name: str, **changes: object) -> pb.Experiment:
    subject = pb.Experiment(experiment_id=name, challenger_version=2, champion_version=1, running=True, **changes)  # type: ignore[arg-type]
    subject.started_at.FromMilliseconds(int(name[1:]))
    return subject


def published(registry: ModelRegistry) -> str:
    stored = registry.repository.read("experiment")
    return stored.content.decode() if stored else ""


def test_one_experiment_runs_and_ended_ones_are_kept(registry: ModelRegistry, other: ModelRegistry) -> None:
    registry.experiment.publish()
    assert published(registry) == ""
    first, second = experiment("e1"), experiment("e2")
    registry.experiment.begin(first)
    with pytest.raises(ExperimentInProgress, match="e1"):
        other.experiment.begin(second)
    assert '"experiment_id": "e1"' in published(registry)
    first.running = False
    other.experiment.end(first)
    with pytest.raises(NoExperiment):
        registry.experiment.end(first)
    registry.experiment.publish()
    assert '"running": false' in published(registry)
    registry.experiment.begin(second)
    assert [second, first] == other.experiment.list_newest(10)
    assert second == other.experiment.running() == other.experiment.read()


def test_experiment_that_cannot_be_published_has_not_begun(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise RepositoryUnavailable("cannot write experiment: no answer")

    with monkeypatch.context() as patched:
        patched.setattr(registry.repository, "swap", away)
        with pytest.raises(StorageFailed):
            registry.experiment.begin(experiment("e1"))
    assert (registry.experiment.read(), published(registry)) == (None, "")


def test_experiment_is_published_again_when_the_file_differs_from_its_row(
    registry: ModelRegistry, other: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = experiment("e1")
    registry.experiment.begin(first)
    before = published(registry)
    (registry.folder / "experiment").unlink()
    other.experiment.publish()
    assert before == published(registry)
    real, late = registry.repository.swap, list[str]()

    def is_slower(*arguments: object) -> str:
        if not late:
            late.append("the other trainer has ended the experiment meanwhile")
            first.running = False
            other.experiment.end(first)
            raise Changed("experiment")
        return real(*arguments)  # type: ignore[arg-type]

    (registry.folder / "experiment").unlink()
    monkeypatch.setattr(registry.repository, "swap", is_slower)
    registry.experiment.publish()
    assert '"running": false' in published(registry)


def test_experiment_that_the_database_lacks_is_ended_for_the_replicas(registry: ModelRegistry) -> None:
    registry.repository.swap("experiment", b'{"experiment_id": "e9", "running": true}', None)
    registry.experiment.publish()
    assert '"running": false' in published(registry)
