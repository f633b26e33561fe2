import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb
from sqlalchemy import delete

from services.trainer.api.status import read_status
from services.trainer.database.database import Database
from services.trainer.database.leases import RUN, Leases
from services.trainer.database.tables import feedback
from services.trainer.errors import RetrainInProgress
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.runs.events import EventLog
from services.trainer.runs.plan import Plan
from services.trainer.runs.record import begin_run
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore
from services.trainer.schedule.drift import Drift, Traffic
from services.trainer.schedule.due import DueCheck, DueRules, Facts, judge, start_if_due

pytestmark = pytest.mark.anyio

NO_TRAFFIC = Traffic({}, (), 0, 0)
STEADY = Drift(NO_TRAFFIC, NO_TRAFFIC)
DRIFTED = Drift(NO_TRAFFIC, NO_TRAFFIC, measured=True, label_index=0.9, label_chance=1e-9)
RULES = DueRules(samples=50, days=30)
ON_DRIFT = replace(RULES, on_drift=True)
THERE = manifest_pb2.Manifest(version=1)


@pytest.mark.parametrize(
    ("facts", "rules", "due", "sentence"),
    [
        (Facts(THERE, 25, 15, STEADY), RULES, False, "Not yet - need 25 more samples or 15 more days"),
        (Facts(THERE, 0, 0, STEADY), RULES, False, "Not yet - need 50 more samples or 30 more days"),
        (Facts(THERE, 49, 29, STEADY), RULES, False, "Not yet - need 1 more samples or 1 more days"),
        (Facts(THERE, 50, 0, STEADY), RULES, True, "Now - 50 new samples since the champion was trained"),
        (Facts(THERE, 0, 30, STEADY), RULES, True, "Now - the champion's data is 30 days old"),
        (Facts(None, 0, 0, STEADY), RULES, True, "Now - there is no model yet"),
        (Facts(THERE, 0, 0, DRIFTED), RULES, False, "Not yet - need 50 more samples or 30 more days"),
        (
            Facts(THERE, 0, 0, DRIFTED),
            ON_DRIFT,
            True,
            "Now - labels have drifted: stability index 0.90, p-value 1.0e-09",
        ),
        (Facts(THERE, 0, 0, STEADY), ON_DRIFT, False, "Not yet - need 50 more samples or 30 more days"),
        (Facts(THERE, 0, 0, DRIFTED, True), ON_DRIFT, False, "Not yet - need 50 more samples or 30 more days"),
    ],
)
def test_run_is_due_by_samples_by_age_or_by_drift(facts: Facts, rules: DueRules, due: bool, sentence: str) -> None:
    verdict = judge(facts, rules)
    assert (due, sentence) == (verdict.due, verdict.sentence)


class Bench:
    """A trainer's store on which nothing trains: the plan names a file that is not there."""

    def __init__(
        self, registry: ModelRegistry, folder: Path, url: str, drift: Drift = STEADY, rules: DueRules = RULES
    ) -> None:
        self.database = Database(url)
        self.leases = Leases(self.database)
        self.runs, self.feedback = RunStore(self.database), FeedbackStore(self.database)
        self.events = folder / "queries.jsonl"
        nothing = Plan(str(folder / "models"), registry.model, 10, (str(folder / "nowhere.jsonl"),))
        champion = Champion(registry, self.leases, [], lambda _: pytest.fail("nothing is promoted here"))
        self.runner = Runner(
            self.runs, self.leases, registry, champion, EventLog(self.events, folder / "retrain.log"), nothing
        )
        self.check = DueCheck(registry, self.feedback, self.runs, lambda: drift, rules)

    async def ask(self, trigger: pb.Trigger.ValueType = pb.TRIGGER_SCHEDULED, *, record_skip: bool = True) -> str:
        _, run = await start_if_due(self.runner, self.check, trigger, record_skip=record_skip)
        if run is None:
            return "nothing"
        if run.state == pb.RUN_STATE_RUNNING:
            await self.runner.wait(run.run_id, None)
        return f"{pb.RunState.Name(run.state).removeprefix('RUN_STATE_')} {pb.Trigger.Name(run.trigger)}"


async def test_run_that_is_not_due_is_skipped_and_recorded(
    registry: ModelRegistry, tmp_path: Path, sqlite_url: str
) -> None:
    bench = Bench(registry, tmp_path, sqlite_url)
    assert await bench.ask(pb.TRIGGER_CRON_TRIGGERED) == "SKIPPED TRIGGER_CRON_TRIGGERED"
    assert list(bench.runs.newest_first(1)[0].reasons) == ["Not yet - need 50 more samples or 30 more days"]


async def test_schedule_that_asks_often_leaves_no_record_of_what_was_not_due(
    registry: ModelRegistry, tmp_path: Path, sqlite_url: str
) -> None:
    bench = Bench(registry, tmp_path, sqlite_url)
    assert await bench.ask(record_skip=False) == "nothing"
    assert bench.runs.newest_first(1) == []


async def test_enough_new_texts_begin_a_run_and_repeated_or_deleted_ones_do_not_count(
    registry: ModelRegistry, tmp_path: Path, sqlite_url: str
) -> None:
    bench = Bench(registry, tmp_path, sqlite_url)
    bench.feedback.add([Feedback(f"text {n}", ("goal_comfort",), user_id="anna" if n else "ben") for n in range(50)])
    bench.feedback.add([Feedback("TEXT 1!", ("goal_comfort",))])
    with bench.database.write() as connection:
        connection.execute(delete(feedback).where(feedback.c.user_id == "ben"))
    assert (bench.check.read_facts().samples, bench.check.judge().due) == (49, False)
    bench.feedback.add([Feedback("one more", ("goal_comfort",))])
    assert await bench.ask() == "RUNNING TRIGGER_SCHEDULED"


async def test_drift_has_one_run_for_each_champion(registry: ModelRegistry, tmp_path: Path, sqlite_url: str) -> None:
    bench = Bench(registry, tmp_path, sqlite_url, DRIFTED, ON_DRIFT)
    assert await bench.ask() == "RUNNING TRIGGER_DRIFT"
    assert await bench.ask(record_skip=False) == "nothing"


async def test_run_that_is_going_on_is_not_doubled(registry: ModelRegistry, tmp_path: Path, sqlite_url: str) -> None:
    bench = Bench(registry, tmp_path, sqlite_url, rules=replace(RULES, days=0))
    bench.runs.add(begin_run("other", pb.TRIGGER_MANUAL))
    assert bench.leases.take(RUN) is not None
    with pytest.raises(RetrainInProgress, match="operations/other"):
        await bench.ask()


async def test_status_says_what_operators_ask_first(registry: ModelRegistry, tmp_path: Path, sqlite_url: str) -> None:
    bench = Bench(registry, tmp_path, sqlite_url, DRIFTED)
    bench.feedback.add([Feedback("something new", ("goal_comfort",))])
    status = await asyncio.to_thread(read_status, bench.check)
    assert (status.logged_data_status.sample_count, status.model_status.version, status.drift.drifted) == (1, 1, True)
    assert (status.due, status.next_retrain_recommended) == (False, "Not yet - need 49 more samples or 30 more days")
    assert not status.HasField("running")
    assert not status.HasField("last_retrain")


async def test_event_of_a_skipped_run_is_in_no_query_log(
    registry: ModelRegistry, tmp_path: Path, sqlite_url: str
) -> None:
    bench = Bench(registry, tmp_path, sqlite_url)
    await bench.ask()
    lines = bench.events.read_text().splitlines() if bench.events.exists() else []
    assert [line for line in lines if json.loads(line)["event"] == "retraining"] == []
