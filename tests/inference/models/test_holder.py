import asyncio
import errno
import shutil
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moodfood.inference.v1 import inference_pb2
from moodfood.registry.v1.manifest_pb2 import HISTORY_ACTION_REASSERTED

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.classifiers.ranking import Intent, Ranking
from services.inference.classifiers.taxonomy import NO_TAXONOMY
from services.inference.dishes.catalogue import NO_CATALOGUE
from services.inference.dishes.recommender import Recommender
from services.inference.errors import (
    ModelRejected,
    ModelVersionNotFound,
    NothingLoaded,
    ReloadInProgress,
    StaleGeneration,
)
from services.inference.models.holder import ModelHolder
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.queries.experiment import ExperimentFollower
from services.inference.servicer import InferenceServicer
from services.repository.opening import open_repository
from services.trainer.registry.registry import ModelRegistry
from tests.fakes import FakeClassifier
from tests.queries import write_to
from tests.registries import MODEL, open_registry, promote

pytestmark = pytest.mark.anyio


def holder(models: Path, loader_type: type[Loader] = Loader) -> ModelHolder:
    registry = RegistryReader(open_repository("", models, MODEL), MODEL)
    return ModelHolder(registry, loader_type(registry, Stage(StageKind.KEYWORD, FakeClassifier(())), 8, None), 600.0)


def servable(version: int, generation: int = 0) -> Servable:
    """Return a servable that answers nothing."""
    return Servable(version, generation, (), 0, 0.0, None)


class InstantLoader(Loader):
    """Has every version."""

    def load(self, version: int, generation: int) -> Servable:
        return servable(version, generation)


async def test_reload_swaps_and_says_what_served_before(models: Path) -> None:
    subject = holder(models)
    first = await subject.reload(0, 0)
    second = await subject.reload(2, 7)
    assert (first.version, first.previous_version, first.already_serving) == (1, 0, False)
    assert (second.version, second.previous_version, second.already_serving) == (2, 1, False)
    assert (subject.current.version, subject.current.generation) == (2, 7)


async def test_reload_of_the_serving_version_is_idempotent(models: Path) -> None:
    subject = holder(models)
    await subject.reload(1, 0)
    before = subject.current.stages
    assert (await subject.reload(1, 5)).already_serving
    assert subject.current.stages is before
    assert subject.current.generation == 5


async def test_prepared_version_is_kept_aside_and_committed_without_loading_it_again(models: Path) -> None:
    subject = holder(models)
    await subject.reload(1, 3)
    prepared = await subject.prepare(2, 4)
    assert (prepared.version, prepared.prepared, subject.current.version) == (2, True, 1)
    assert subject.warm.versions == (2,)
    shutil.rmtree(models / MODEL / "2")
    assert (await subject.reload(2, 4)).previous_version == 1
    assert (subject.current.version, subject.current.generation) == (2, 4)


async def test_version_that_served_until_lately_comes_back_without_being_loaded(models: Path) -> None:
    subject = holder(models)
    await subject.reload(1, 1)
    stages = subject.current.stages
    await subject.reload(2, 2)
    shutil.rmtree(models / MODEL / "1")
    await subject.reload(1, 3)
    assert subject.current.stages is stages
    assert subject.current.generation == 3


async def test_neither_a_challenger_nor_a_prepared_version_pushes_out_the_former_champion(tmp_path: Path) -> None:
    subject = holder(tmp_path, InstantLoader)
    await subject.reload(1, 1)
    await subject.reload(2, 2)
    assert (await subject.load_challenger(3)).version == 3
    await subject.prepare(4, 3)
    assert 1 in subject.warm.versions


async def test_reload_of_an_older_generation_is_refused(models: Path) -> None:
    subject = holder(models)
    await subject.reload(1, 5)
    with pytest.raises(StaleGeneration, match="5"):
        await subject.reload(2, 4)
    assert (subject.current.version, subject.current.generation) == (1, 5)


async def test_version_reloaded_by_hand_stays_until_the_alias_changes(models: Path) -> None:
    subject = holder(models)
    await subject.reload(2, 0)
    await subject.converge()
    assert subject.current.version == 2
    promote(open_registry(models), 1)
    await subject.converge()
    assert subject.current.version == 1


async def test_version_that_is_committed_leaves_the_shelf_to_the_one_that_served_before(tmp_path: Path) -> None:
    subject = holder(tmp_path, InstantLoader)
    await subject.reload(1, 1)
    await subject.prepare(2, 2)
    await subject.reload(2, 2)
    assert subject.warm.versions == (1,)


async def test_failed_reload_leaves_the_serving_version_and_remembers_why(models: Path) -> None:
    subject = holder(models)
    await subject.reload(1, 0)
    serving = subject.current
    (models / MODEL / "2" / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ModelRejected):
        await subject.reload(2, 0)
    with pytest.raises(ModelVersionNotFound):
        await subject.reload(99, 0)
    assert subject.current is serving
    assert "99" in subject.last_error


async def test_reload_that_succeeds_forgets_the_last_error_even_when_the_version_serves_already(models: Path) -> None:
    subject = holder(models)
    await subject.reload(1, 0)
    with pytest.raises(ModelVersionNotFound):
        await subject.reload(99, 0)
    assert (await subject.reload(1, 0)).already_serving
    assert subject.last_error == ""


async def test_storage_that_refuses_to_be_read_is_remembered_as_a_failed_reload(tmp_path: Path) -> None:
    class Refused(Loader):
        def load(self, version: int, generation: int) -> Servable:
            raise OSError(errno.ESTALE, "Stale file handle")

    subject = holder(tmp_path, Refused)
    with pytest.raises(OSError, match="Stale"):
        await subject.reload(1, 1)
    assert (subject.current.version, "Stale file handle" in subject.last_error) == (0, True)


async def test_empty_registry_answers_by_keywords_and_has_no_champion_to_reload(tmp_path: Path) -> None:
    subject = holder(tmp_path)
    assert [stage.kind for stage in subject.current.stages] == [StageKind.KEYWORD]
    with pytest.raises(NothingLoaded):
        await subject.reload(0, 0)


async def test_second_reload_at_the_same_time_is_refused(models: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    class SlowLoader(Loader):
        def load(self, version: int, generation: int) -> Servable:
            entered.set()
            leave.wait(5)
            return super().load(version, generation)

    subject = holder(models, SlowLoader)
    first = asyncio.create_task(subject.reload(1, 0))
    await asyncio.to_thread(entered.wait, 5)
    with pytest.raises(ReloadInProgress):
        await subject.reload(2, 0)
    assert subject.current.version == 0
    leave.set()
    assert (await first).version == 1


@pytest.mark.parametrize("what", ["challenger", "prepare", "reload"])
async def test_rollback_to_a_warm_version_waits_for_no_version_that_is_being_fetched(tmp_path: Path, what: str) -> None:
    fetches, arrived = threading.Event(), threading.Event()

    class SlowLoader(InstantLoader):
        def load(self, version: int, generation: int) -> Servable:
            if version == 3:
                fetches.set()
                arrived.wait(5)
            return super().load(version, generation)

    subject = holder(tmp_path, SlowLoader)
    await subject.reload(1, 1)
    await subject.reload(2, 2)
    load: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "challenger": lambda: subject.load_challenger(3),
        "prepare": lambda: subject.prepare(3, 3),
        "reload": lambda: subject.reload(3, 3),
    }
    fetching = asyncio.create_task(load[what]())
    await asyncio.to_thread(fetches.wait, 5)
    assert (await subject.reload(1, 4)).previous_version == 2
    arrived.set()
    (outcome,) = await asyncio.gather(fetching, return_exceptions=True)
    assert isinstance(outcome, StaleGeneration) == (what == "reload")
    assert (subject.current.version, subject.current.generation) == (1, 4)


async def test_replica_converges_on_a_newer_alias_and_never_on_an_older_one(
    models: Path, registry: ModelRegistry
) -> None:
    subject = holder(models)
    old_alias = (models / MODEL / "champion").read_text()
    await subject.converge()
    assert subject.current.version == 1
    promote(registry, 2)
    await subject.converge()
    assert subject.current.version == 2
    (models / MODEL / "champion").write_text(old_alias)
    await subject.converge()
    assert subject.current.version == 2


async def test_replica_that_was_told_ahead_of_the_alias_stays_until_a_newer_generation(
    models: Path, registry: ModelRegistry
) -> None:
    subject = holder(models)
    await subject.converge()
    await subject.reload(2, registry.alias.next_generation())
    await subject.converge()
    assert subject.current.version == 2
    alias = registry.alias.read()
    assert alias is not None
    registry.alias.move(
        alias.version,
        registry.alias.next_generation() + 1,
        HISTORY_ACTION_REASSERTED,
        "test",
        "the promotion did not finish",
        expected=alias.version,
    )
    await subject.converge()
    assert subject.current.version == 1


async def test_damaged_alias_changes_nothing(models: Path) -> None:
    subject = holder(models)
    await subject.converge()
    (models / MODEL / "champion").write_text('{"version": 2, "gen')
    await subject.converge()
    assert subject.current.version == 1
    shutil.rmtree(models / MODEL)
    await subject.converge()
    assert subject.current.version == 1


async def test_request_in_flight_during_reload_is_answered_by_the_version_it_started_with(
    models: Path, tmp_path: Path
) -> None:
    subject = holder(models)
    await subject.reload(1, 0)

    class SwapsWhileAsked(FakeClassifier):
        """Stands for a query during which a reload ends."""

        def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
            subject.current = replace(subject.current, version=2)
            return super().rank(queries, top_k, earlier)

    old = SwapsWhileAsked((Intent("from_version_1", 0.9),))
    subject.current = replace(subject.current, stages=(Stage(StageKind.LINEAR, old),))
    writer = write_to(tmp_path)
    recommender = Recommender(NO_TAXONOMY, NO_CATALOGUE)
    registry = RegistryReader(open_repository("", models, MODEL), MODEL)
    servicer = InferenceServicer(MODEL, subject, registry, recommender, writer, ExperimentFollower(registry, subject))
    answer = (await servicer.Classify(inference_pb2.ClassifyRequest(text="hello"), None)).classification
    writer.close()
    assert (answer.model_version, answer.intents[0].label) == (1, "from_version_1")
    assert subject.current.version == 2
