"""Decides whether retraining is due, and starts a run when it is.

Cron, the built-in schedule, the retraining status and the metrics all use this module.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import ModelVersionNotFound
from services.trainer.feedback.store import FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore
from services.trainer.schedule.drift import Drift

RUN_IT = "Consider running retraining pipeline"
TRAIN_FIRST = "Train a first model"
COLLECT = "Collect more feedback"


@dataclass(frozen=True)
class DueRules:
    """When retraining is due.

    Attributes:
        samples: at this many new texts from people.
        days: at this many days since the data of the champion was collected.
        on_drift: whether it is also due when the queries have drifted.

    """

    samples: int
    days: int
    on_drift: bool = False


@dataclass(frozen=True)
class Facts:
    """The facts that the rules need.

    Attributes:
        champion: manifest of the champion; None when there is none.
        samples: number of different texts that people have labelled since the data of the champion was collected.
        days: whole days since then.
        drift: the difference between recent queries and those at promotion.
        drift_had_its_run: whether a run for drift has started since the champion was registered. There is at most one
            such run for each champion, because a second run would learn from the same data.

    """

    champion: manifest_pb2.Manifest | None
    samples: int
    days: int
    drift: Drift
    drift_had_its_run: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether retraining is due.

    Attributes:
        due: whether it is due.
        sentence: why it is due, or what is missing.
        recommendations: what the operator can do.
        only_drift: whether drift is the only reason.

    """

    due: bool
    sentence: str
    recommendations: tuple[str, ...]
    only_drift: bool = False


def judge(facts: Facts, rules: DueRules) -> Verdict:
    """Apply the rules to the facts. The first rule that applies gives the sentence."""
    if facts.champion is None:
        return Verdict(True, "Now - there is no model yet", (TRAIN_FIRST,))
    if facts.samples >= rules.samples:
        return Verdict(True, f"Now - {facts.samples} new samples since the champion was trained", (RUN_IT,))
    if facts.days >= rules.days:
        return Verdict(True, f"Now - the champion's data is {facts.days} days old", (RUN_IT,))
    if rules.on_drift and facts.drift.reasons and not facts.drift_had_its_run:
        return Verdict(True, f"Now - {'; '.join(facts.drift.reasons)}", (RUN_IT,), only_drift=True)
    missing, remaining = rules.samples - facts.samples, rules.days - facts.days
    waiting = f"Not yet - need {missing} more samples or {remaining} more days"
    return Verdict(False, waiting, (COLLECT,) if facts.samples == 0 else (RUN_IT,))


@dataclass(frozen=True)
class DueCheck:
    """The rules, and the stores that the facts come from. Its methods block: call them off the event loop."""

    registry: ModelRegistry
    feedback: FeedbackStore
    runs: RunStore
    measure_drift: Callable[[], Drift]
    rules: DueRules

    def read_facts(self) -> Facts:
        """Return the facts as they are now."""
        champion = self._champion()
        if champion is None:
            return Facts(None, self.feedback.count_new_texts(0), 0, self.measure_drift())
        return Facts(
            champion,
            self.feedback.count_new_texts(champion.snapshot.feedback_records),
            count_days(champion.snapshot.collected_at),
            self.measure_drift(),
            self.runs.had_drift_run_since(champion.created_at.ToMicroseconds()),
        )

    def judge(self) -> Verdict:
        """Return the verdict as it is now."""
        return judge(self.read_facts(), self.rules)

    def _champion(self) -> manifest_pb2.Manifest | None:
        version = self.registry.alias.version()
        try:
            return self.registry.versions.manifest(version) if version else None
        except ModelVersionNotFound:
            return None


async def start_if_due(
    runner: Runner,
    check: DueCheck,
    trigger: "pb.Trigger.ValueType",
    *,
    request_id: str = "",
    record_skip: bool = True,
) -> tuple[Verdict, pb.TrainingRun | None]:
    """Start a run if retraining is due. Returns the verdict and the run.

    Args:
        runner: starts the run.
        check: says whether retraining is due.
        trigger: who asks; TRIGGER_SCHEDULED becomes TRIGGER_DRIFT when drift is the only reason.
        request_id: the caller's key; may be empty.
        record_skip: when retraining is not due, whether to record and return a skipped run; if not, the run is None.

    Raises:
        RetrainInProgress: a run is in progress.
        StorageFailed: the record of the run could not be written.

    """
    verdict = await asyncio.to_thread(check.judge)
    if not verdict.due:
        return verdict, await runner.skip(trigger, verdict.sentence, request_id) if record_skip else None
    if verdict.only_drift and trigger == pb.TRIGGER_SCHEDULED:
        trigger = pb.TRIGGER_DRIFT
    return verdict, await runner.start(trigger, request_id=request_id)


def count_days(since: Timestamp) -> int:
    """Return the whole days since a time; 0 when the clock was set back before it."""
    return max(0, (datetime.now(UTC) - since.ToDatetime(UTC)).days)
