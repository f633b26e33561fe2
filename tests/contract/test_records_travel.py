"""What inference writes into the query log, the trainer understands; what the trainer decides, inference follows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import QueryRecord
from moodfood.registry.v1 import manifest_pb2 as pb

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.classifiers.ranking import Intent
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.queries.answering import Answerer
from services.inference.queries.experiment import Experiment
from services.repository.opening import open_repository
from services.trainer.feedback.answered_query import AnsweredQuery, read_record
from services.trainer.feedback.review import Reason, find_reasons
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.experiment_verdict import observe, pairs_of
from services.trainer.schedule.drift import count_traffic
from tests.fakes import FakeClassifier
from tests.queries import write_to
from tests.registries import MODEL, promote

pytestmark = pytest.mark.anyio


@dataclass
class Current:
    """Stands for the holder of what serves, and for the owner of the experiment."""

    current: Any


def servable(version: int, answering_stage: StageKind | None, label: str = "soup") -> Servable:
    """Return a cascade of the three stages in which one stage is sure of a label and the others abstain."""
    stages = tuple(
        Stage(kind, FakeClassifier((Intent(label, 0.9),) if kind is answering_stage else ())) for kind in StageKind
    )
    return Servable(version, 1, stages, 1, 0.0, None)


async def read_by_the_trainer(asked: list[tuple[Servable, Experiment | None]], folder: Path) -> list[AnsweredQuery]:
    """Ask one query of each servable, in its experiment if there is one; return what the trainer reads of them."""
    writer = write_to(folder)
    for champion, trial in asked:
        answerer = Answerer(cast("Any", Current(champion)), cast("Any", Current(trial)), writer)
        await answerer.answer(["rainy day"], 1, "anna")
        await answerer.settle()
    writer.close()
    lines = (folder / "query_logs.jsonl").read_text().splitlines()
    return [read_record(json_format.Parse(line, QueryRecord())) for line in lines]


async def test_trainer_counts_the_answers_of_each_stage_and_those_that_no_stage_knew(tmp_path: Path) -> None:
    kinds = [*[StageKind.LINEAR] * 4, *[StageKind.TRANSFORMER] * 3, *[StageKind.KEYWORD] * 2, None]
    queries = await read_by_the_trainer([(servable(1, kind), None) for kind in kinds], tmp_path)
    traffic = count_traffic(queries)
    assert (traffic.queries, traffic.escalated, traffic.unknown) == (10, 3, 1)
    assert traffic.labels == {"soup": 9, "unknown": 1}


async def test_trainer_asks_people_about_what_only_keywords_or_nothing_answered(tmp_path: Path) -> None:
    kinds = (StageKind.LINEAR, StageKind.TRANSFORMER, StageKind.KEYWORD, None)
    queries = await read_by_the_trainer([(servable(1, kind), None) for kind in kinds], tmp_path)
    reasons = [[item.reason for item in find_reasons(query, known_words=())] for query in queries]
    assert reasons == [[], [], [Reason.UNCERTAIN], [Reason.UNCERTAIN]]


@pytest.mark.parametrize(("canary", "answered_by_challenger"), [(False, 0), (True, 1)])
async def test_trainer_tells_champion_from_challenger_whoever_answered_the_caller(
    tmp_path: Path, canary: bool, answered_by_challenger: int
) -> None:
    champion, challenger = servable(1, StageKind.LINEAR, "soup"), servable(2, StageKind.LINEAR, "cake")
    trial = Experiment("e1", challenger, champion_version=1, share=1.0, canary=canary)
    pairs = pairs_of(await read_by_the_trainer([(champion, trial)], tmp_path), "e1")
    assert [(pair.champion, pair.challenger) for pair in pairs] == [("soup", "cake")]
    assert answered_by_challenger == observe(pairs, {}).challenger_answered


class Crashing(FakeClassifier):
    def rank(self, *_: Any) -> Any:
        raise RuntimeError("no answer")


@pytest.mark.parametrize("canary", [False, True])
async def test_trainer_counts_a_failure_of_the_challenger_and_not_one_of_the_champion(
    tmp_path: Path, canary: bool
) -> None:
    broken = Servable(2, 1, (Stage(StageKind.LINEAR, Crashing(())),), 1, 0.0, None)
    trial = Experiment("e1", broken, champion_version=1, share=1.0, canary=canary)
    pairs = pairs_of(await read_by_the_trainer([(servable(1, StageKind.LINEAR), trial)], tmp_path), "e1")
    assert (observe(pairs, {}).errors, observe(pairs, {}).challenger_answered) == (1, 0)


async def test_inference_follows_the_alias_and_the_experiment_that_the_trainer_wrote(registry: ModelRegistry) -> None:
    reader = RegistryReader(open_repository("", registry.folder.parent, MODEL), MODEL)
    alias = promote(registry, 2)
    assert alias == await reader.look_at_alias()
    experiment = pb.Experiment(experiment_id="e1", challenger_version=1, champion_version=2, share=0.5, running=True)
    registry.experiment.begin(experiment)
    assert experiment == await reader.look_at_experiment()
