import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from moodfood.registry.v1 import manifest_pb2 as pb

from services.inference.classifiers.cascade import Stage, StageKind, answer
from services.inference.classifiers.ranking import Intent, Ranking
from services.inference.models.holder import ModelHolder
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.queries.answering import Answerer, answer_live
from services.inference.queries.experiment import Experiment, ExperimentFollower
from services.inference.queries.query_writer import QueryWriter
from services.repository.opening import open_repository
from services.trainer.registry.registry import ModelRegistry
from services.trainer.storage import to_json
from tests.fakes import FakeClassifier
from tests.queries import write_to
from tests.registries import MODEL, promote

pytestmark = pytest.mark.anyio


class Crashing(FakeClassifier):
    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        raise RuntimeError("no answer")


@dataclass
class Bench:
    """A replica in an experiment between versions 1 and 2."""

    holder: ModelHolder
    experiments: ExperimentFollower
    answerer: Answerer
    writer: QueryWriter
    path: Path

    async def ask(self, key: str, text: str = "soup") -> int:
        (answer,) = await self.answerer.answer([text], 1, key)
        return answer.servable.version

    async def logged(self) -> list[dict[str, Any]]:
        await self.answerer.settle()
        self.writer.close()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def experiment(registry: ModelRegistry, kind: pb.ExperimentKind.ValueType, share: float, **changes: Any) -> None:
    values = {"experiment_id": "e1", "challenger_version": 2, "champion_version": 1, "running": True, **changes}
    (registry.folder / "experiment").write_text(to_json(pb.Experiment(kind=kind, share=share, **values)))


@pytest.fixture
async def bench(models: Path, tmp_path: Path) -> Bench:
    registry = RegistryReader(open_repository("", models, MODEL), MODEL)
    keywords = Stage(StageKind.KEYWORD, FakeClassifier(()))
    holder = ModelHolder(registry, Loader(registry, keywords, 8, None), 600.0)
    await holder.converge()
    writer = write_to(tmp_path)
    experiments = ExperimentFollower(registry, holder)
    return Bench(holder, experiments, Answerer(holder, experiments, writer), writer, tmp_path / "query_logs.jsonl")


async def test_canary_answers_its_share_of_callers_and_each_always_by_the_same_side(
    bench: Bench, registry: ModelRegistry
) -> None:
    experiment(registry, pb.EXPERIMENT_KIND_CANARY, 0.3)
    await bench.experiments.converge()
    first = {f"caller {n}": await bench.ask(f"caller {n}") for n in range(200)}
    again = {key: await bench.ask(key, "another query") for key in first}
    assert first == again
    assert 35 <= sum(version == 2 for version in first.values()) <= 85
    rows = await bench.logged()
    given = [row for row in rows if row["model_version"] == 2]
    assert {(row["arm"], row["shadow"]["model_version"], row["experiment_id"]) for row in given} == {
        ("challenger", 1, "e1")
    }
    assert not any(row["arm"] for row in rows if row["model_version"] == 1)


async def test_shadow_answers_for_the_log_only(bench: Bench, registry: ModelRegistry) -> None:
    experiment(registry, pb.EXPERIMENT_KIND_SHADOW, 1.0)
    await bench.experiments.converge()
    assert {await bench.ask(f"caller {n}", "chocolate please") for n in range(20)} == {1}
    rows = await bench.logged()
    assert len(rows) == 20
    for row in rows:
        assert (row["arm"], row["shadow"]["model_version"], row["shadow"]["error"]) == ("champion", 2, "")
        assert row["shadow"]["label"] == row["labels"][0]["label"]
        assert row["shadow"]["latency_micros"] > 0


@pytest.mark.parametrize("canary", [True, False])
async def test_challenger_that_fails_costs_nobody_an_answer(bench: Bench, canary: bool) -> None:
    broken = Servable(2, 1, (Stage(StageKind.LINEAR, Crashing((Intent("a", 0.9),))),), 8, 0.0, None)
    bench.experiments._followed = Experiment("e1", broken, 1, 1.0, canary)
    assert {await bench.ask(f"caller {n}") for n in range(5)} == {1}
    rows = await bench.logged()
    assert [(row["arm"], row["shadow"]["model_version"], row["shadow"]["error"]) for row in rows] == [
        ("champion", 2, "RuntimeError")
    ] * 5


async def test_experiment_about_another_champion_is_not_taken_part_in(bench: Bench, registry: ModelRegistry) -> None:
    experiment(registry, pb.EXPERIMENT_KIND_CANARY, 1.0)
    await bench.experiments.converge()
    assert await bench.ask("anna") == 2
    promote(registry, 2)
    await bench.holder.converge()
    assert bench.experiments.current is None
    bench.holder.current = replace(bench.holder.current, version=3)
    assert await bench.ask("anna") == 3


async def test_ended_damaged_or_impossible_experiments_leave_the_champion_alone(
    bench: Bench, registry: ModelRegistry
) -> None:
    experiment(registry, pb.EXPERIMENT_KIND_CANARY, 1.0)
    await bench.experiments.converge()
    assert await bench.ask("anna") == 2
    experiment(registry, pb.EXPERIMENT_KIND_CANARY, 1.0, running=False)
    await bench.experiments.converge()
    assert await bench.ask("anna") == 1
    experiment(registry, pb.EXPERIMENT_KIND_CANARY, 1.0, challenger_version=99)
    await bench.experiments.converge()
    assert await bench.ask("anna") == 1
    (registry.folder / "experiment").write_text("{")
    await bench.experiments.converge()
    assert await bench.ask("anna") == 1


class Locating(FakeClassifier):
    """Remembers the threads that it is asked in."""

    def __init__(self, intents: tuple[Intent, ...]) -> None:
        super().__init__(intents)
        self.threads: list[threading.Thread] = []

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        self.threads.append(threading.current_thread())
        return super().rank(queries, top_k, earlier)


@pytest.mark.parametrize(("texts", "quick_on_the_loop"), [(["soup"], True), (["soup", "pizza"], False)])
async def test_batches_and_stages_that_take_milliseconds_are_asked_off_the_event_loop(
    texts: list[str], quick_on_the_loop: bool
) -> None:
    quick, slow, keywords = Locating(()), Locating(()), Locating(())
    stages = (
        Stage(StageKind.LINEAR, quick),
        Stage(StageKind.TRANSFORMER, slow, takes_milliseconds=True),
        Stage(StageKind.KEYWORD, keywords),
    )
    answers = await answer_live(texts, stages, 5)
    here = threading.current_thread()
    asked_here = [[thread is here for thread in stage.threads] for stage in (quick, slow, keywords)]
    assert asked_here == [[quick_on_the_loop], [False], [False]]
    assert answers == answer(texts, stages, 5)


async def test_query_that_a_quick_stage_answers_reaches_no_thread() -> None:
    quick, slow = Locating((Intent("a", 0.9),)), Locating(())
    stages = (Stage(StageKind.LINEAR, quick), Stage(StageKind.TRANSFORMER, slow, takes_milliseconds=True))
    (given,) = await answer_live(["soup"], stages, 5)
    assert (given.kind, slow.threads) == (StageKind.LINEAR, [])


async def test_challenger_that_cannot_be_loaded_is_no_reload_error(bench: Bench, registry: ModelRegistry) -> None:
    experiment(registry, pb.EXPERIMENT_KIND_CANARY, 1.0, challenger_version=99)
    await bench.experiments.converge()
    assert bench.experiments.current is None
    assert bench.holder.last_error == ""
