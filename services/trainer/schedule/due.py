"""Whether a training run is due, and the one place that begins a run when it is.

Cron, the built-in schedule, the status page and the metrics all ask here.
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
    """When a run is due: so many new samples, so many days since the data was collected, or drift if that counts."""

    samples: int
    days: int
    on_drift: bool = False


@dataclass(frozen=True)
class Facts:
    """What the rules are asked about.

    Attributes:
        champion: manifest of the champion; None while there is none.
        samples: different texts that people gave labels to since the champion's data was collected.
        days: whole days since then.
        drift: how far recent queries are from those at promotion.
        drift_had_its_run: whether a run for drift was begun since the champion was registered. There is at most one
            retrain for drift per champion, because the same data teaches the same again.

    """

    champion: manifest_pb2.Manifest | None
    samples: int
    days: int
    drift: Drift
    drift_had_its_run: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a run is due, why or when in words, what the operator may do, and whether drift is the only reason."""

    due: bool
    sentence: str
    recommendations: tuple[str, ...]
    only_drift: bool = False


def judge(facts: Facts, rules: DueRules) -> Verdict:
    """Apply the rules, the strongest reason first."""
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
    """The rules, and where the facts are read. Reads files; call its methods off the event loop."""

    registry: ModelRegistry
    feedback: FeedbackStore
    runs: RunStore
    measure_drift: Callable[[], Drift]
    rules: DueRules

    def read_facts(self) -> Facts:
        """Return the facts of this moment."""
        champion = self._champion()
        if champion is None:
            return Facts(None, self.feedback.count_new_texts(0), 0, self.measure_drift())
        return Facts(
            champion,
            self.feedback.count_new_texts(champion.snapshot.feedback_records),
            count_days(champion.snapshot.collected_at),
            self.measure_drift(),
            self._drift_had_its_run(champion),
        )

    def judge(self) -> Verdict:
        """Return the verdict of this moment."""
        return judge(self.read_facts(), self.rules)

    def _champion(self) -> manifest_pb2.Manifest | None:
        version = self.registry.alias.version()
        try:
            return self.registry.versions.manifest(version) if version else None
        except ModelVersionNotFound:
            return None

    def _drift_had_its_run(self, champion: manifest_pb2.Manifest) -> bool:
        registered = champion.created_at.ToMilliseconds()
        return any(
            run.trigger == pb.TRIGGER_DRIFT and run.started_at.ToMilliseconds() > registered
            for run in self.runs.newest_first()
        )


async def start_if_due(
    runner: Runner,
    check: DueCheck,
    trigger: "pb.Trigger.ValueType",
    *,
    request_id: str = "",
    record_skip: bool = True,
) -> tuple[Verdict, pb.TrainingRun | None]:
    """Begin a run if one is due, and return the verdict and the run.

    Args:
        runner: carries the run out.
        check: says whether it is due.
        trigger: who asks; the built-in schedule becomes TRIGGER_DRIFT when drift is the only reason.
        request_id: the caller's key for the run.
        record_skip: whether a run that is not due leaves a record, as a skipped run; else None is returned for it.

    Raises:
        RetrainInProgress: a run is going on.
        StorageFailed: the run could not be recorded.

    """
    verdict = await asyncio.to_thread(check.judge)
    if not verdict.due:
        return verdict, runner.skip(trigger, verdict.sentence, request_id) if record_skip else None
    if verdict.only_drift and trigger == pb.TRIGGER_SCHEDULED:
        trigger = pb.TRIGGER_DRIFT
    return verdict, await runner.start(trigger, request_id=request_id)


def count_days(since: Timestamp) -> int:
    """Return the whole days since a moment, never negative even if the clock was set back."""
    return max(0, (datetime.now(UTC) - since.ToDatetime(UTC)).days)
