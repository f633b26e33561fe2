"""Owner of experiments: begins one at a time, watches it, ends it. Its file is what the replicas follow."""

import asyncio
import uuid
from datetime import UTC, datetime

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import (
    ExperimentInProgress,
    InvalidRequest,
    NoChampion,
    NoExperiment,
    VersionRefused,
)
from services.trainer.evaluation.gate import Decision
from services.trainer.evaluation.reports import promotion_decision
from services.trainer.feedback.query_log import QueryHistory
from services.trainer.feedback.store import FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.experiment_verdict import Observed, observe, pairs_of, reason_to_stop, verdict

WATCH_EVERY_SECONDS = 5.0
BY_ITSELF = "trainer"

_DEFAULT_SHARES = {pb.EXPERIMENT_KIND_SHADOW: 1.0, pb.EXPERIMENT_KIND_CANARY: 0.1}

_log = structlog.get_logger()


class Experiments:
    """Lives on the event loop; logs are read in threads."""

    def __init__(
        self, registry: ModelRegistry, champion: Champion, history: QueryHistory, feedback: FeedbackStore
    ) -> None:
        self._registry = registry
        self._champion = champion
        self._history = history
        self._feedback = feedback
        self._ending = asyncio.Lock()

    def start(self, kind: "pb.ExperimentKind.ValueType", version: int, share: float, by: str) -> pb.Experiment:
        """Begin an experiment.

        Raises:
            InvalidRequest, NoChampion, ModelVersionNotFound, VersionRefused, ExperimentInProgress.
            StorageFailed: it has not begun.

        """
        if kind not in _DEFAULT_SHARES:
            raise InvalidRequest("kind", "is neither shadow nor canary")
        if not 0 <= share <= 1:
            raise InvalidRequest("share", f"is {share}; use a number above 0 and at most 1")
        alias, present = self._registry.champion(), self._registry.experiment()
        if alias is None:
            raise NoChampion
        if present is not None and present.running:
            raise ExperimentInProgress(present.experiment_id)
        decision = self._registry.decision(version)
        if not decision.promoted:
            raise VersionRefused(version, ", ".join(rule.rule for rule in decision.rules if not rule.passed))
        if version == alias.version:
            raise InvalidRequest("version", f"{version} is the champion; name a version to compare with it")
        experiment = pb.Experiment(
            experiment_id=uuid.uuid4().hex[:12],
            kind=kind,
            challenger_version=version,
            champion_version=alias.version,
            share=share or _DEFAULT_SHARES[kind],
            running=True,
            by=by,
        )
        experiment.started_at.FromDatetime(datetime.now(UTC))
        self._registry.begin_experiment(experiment)
        return experiment

    async def now(self) -> pb.Experiment | None:
        """Return the experiment that goes on, or the last one, with what was seen so far."""
        experiment = self._registry.experiment()
        if experiment is not None and experiment.running:
            experiment.result.CopyFrom(await asyncio.to_thread(self._result, experiment))
        return experiment

    async def stop(self, by: str, reason: str, *, promote: bool) -> tuple[pb.Experiment, bool]:
        """End the experiment; return it and whether its challenger was promoted.

        Raises:
            NoExperiment: none goes on.
            StorageFailed: it goes on.
            what Champion.promote raises: it has ended, and the champion is what it was.

        """
        async with self._ending:
            experiment = self._registry.experiment()
            if experiment is None or not experiment.running:
                raise NoExperiment
            experiment.result.CopyFrom(await asyncio.to_thread(self._result, experiment))
            experiment.running, experiment.reason = False, reason
            experiment.ended_at.FromDatetime(datetime.now(UTC))
            self._registry.end_experiment(experiment)
        _log.info("experiment ended", experiment=experiment.experiment_id, reason=reason)
        if not (promote and experiment.result.decision.promoted):
            return experiment, False
        why = f"won experiment {experiment.experiment_id}" + (f": {reason}" if reason else "")
        await self._champion.promote(experiment.challenger_version, by, why)
        return experiment, True

    async def watch_once(self) -> None:
        """End the experiment if its challenger errs or is slow, or if another champion serves."""
        experiment, alias = self._registry.experiment(), self._registry.champion()
        if experiment is None or not experiment.running:
            return
        if alias is None or alias.version != experiment.champion_version:
            reason = "the champion changed"
        else:
            reason = reason_to_stop(await asyncio.to_thread(self._observed, experiment))
        if reason:
            await self.stop(BY_ITSELF, reason, promote=False)

    async def watch(self) -> None:
        """Watch for as long as the trainer runs."""
        while True:
            await asyncio.sleep(WATCH_EVERY_SECONDS)
            try:
                await self.watch_once()
            except NoExperiment:
                continue
            except Exception as error:
                _log.error("cannot watch the experiment", exc_info=error)

    def _observed(self, experiment: pb.Experiment) -> Observed:
        labels = {
            record.query_id: tuple(record.labels)
            for record in self._feedback.records()
            if record.query_id and record.labels
        }
        return observe(pairs_of(self._history.recent(), experiment.experiment_id), labels)

    def _result(self, experiment: pb.Experiment) -> pb.ExperimentResult:
        observed = self._observed(experiment)
        return result_of(observed, verdict(observed, experiment.champion_version))


def result_of(observed: Observed, decision: Decision) -> pb.ExperimentResult:
    """Translate what was seen."""
    champion, challenger = observed.accuracies
    return pb.ExperimentResult(
        queries=observed.queries,
        agreement=observed.agreement,
        judged=len(observed.judged),
        champion_accuracy=champion,
        challenger_accuracy=challenger,
        champion_micros=observed.champion_micros,
        challenger_micros=observed.challenger_micros,
        errors=observed.errors,
        challenger_answered=observed.challenger_answered,
        decision=promotion_decision(decision),
    )
