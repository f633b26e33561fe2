"""Tries a challenger on real traffic: begins one experiment at a time, watches it, ends it.

The experiment's file in the registry is what the replicas follow. What they answered is read from the query log.
"""

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
)
from services.trainer.evaluation.gate import Decision
from services.trainer.evaluation.reports import promotion_decision
from services.trainer.feedback.query_history import QueryHistory
from services.trainer.feedback.store import FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion, Change
from services.trainer.rollout.experiment_verdict import Observed, observe, pairs_of, reason_to_stop, verdict
from services.trainer.rollout.rehearsal import Rehearse, ensure_rehearsed

WATCH_EVERY_SECONDS = 5.0
BY_ITSELF = "trainer"

_DEFAULT_SHARES = {pb.EXPERIMENT_KIND_SHADOW: 1.0, pb.EXPERIMENT_KIND_CANARY: 0.1}

_log = structlog.get_logger()


class Experiments:
    """Lives on the event loop; logs are read in threads."""

    def __init__(
        self,
        registry: ModelRegistry,
        champion: Champion,
        rehearse: Rehearse,
        history: QueryHistory,
        feedback: FeedbackStore,
    ) -> None:
        self._registry = registry
        self._champion = champion
        self._rehearse = rehearse
        self._history = history
        self._feedback = feedback
        self._ending = asyncio.Lock()

    async def start(self, kind: "pb.ExperimentKind.ValueType", version: int, share: float, by: str) -> pb.Experiment:
        """Begin an experiment, with a version that has passed its rehearsal.

        Raises:
            InvalidRequest, NoChampion, ModelVersionNotFound, VersionRefused, ExperimentInProgress.
            StorageFailed: it has not begun.

        """
        self._check(kind, version, share)
        await ensure_rehearsed(self._registry, self._rehearse, version, by)
        experiment = pb.Experiment(
            experiment_id=uuid.uuid4().hex[:12],
            kind=kind,
            challenger_version=version,
            champion_version=self._check(kind, version, share),
            share=share or _DEFAULT_SHARES[kind],
            running=True,
            by=by,
        )
        experiment.started_at.FromDatetime(datetime.now(UTC))
        self._registry.experiment.begin(experiment)
        return experiment

    def _check(self, kind: "pb.ExperimentKind.ValueType", version: int, share: float) -> int:
        """Return the champion's version; raise when an experiment cannot begin."""
        if kind not in _DEFAULT_SHARES:
            raise InvalidRequest("kind", "is neither shadow nor canary")
        if not 0 <= share <= 1:
            raise InvalidRequest("share", f"is {share}; use a number above 0 and at most 1")
        champion, running = self._registry.alias.version(), self._registry.experiment.running()
        if champion == 0:
            raise NoChampion
        if running is not None:
            raise ExperimentInProgress(running.experiment_id)
        self._registry.versions.check_promotable(version)
        if version == champion:
            raise InvalidRequest("version", f"{version} is the champion; name a version to compare with it")
        return champion

    async def now(self) -> pb.Experiment | None:
        """Return the experiment that goes on, or the last one, with what was seen so far."""
        experiment = self._registry.experiment.read()
        if experiment is not None and experiment.running:
            experiment.result.CopyFrom(await asyncio.to_thread(self._result, experiment))
        return experiment

    async def stop(self, by: str, reason: str, *, promote: bool) -> tuple[pb.Experiment, bool]:
        """End the experiment; return it and whether its challenger was promoted.

        Raises:
            NoExperiment: none goes on.
            StorageFailed: it goes on.
            what `Champion.promote` raises: it has ended, and the champion is what it was.

        """
        async with self._ending:
            experiment = self._registry.experiment.running()
            if experiment is None:
                raise NoExperiment
            experiment.result.CopyFrom(await asyncio.to_thread(self._result, experiment))
            experiment.running, experiment.reason = False, reason
            experiment.ended_at.FromDatetime(datetime.now(UTC))
            self._registry.experiment.end(experiment)
        _log.info("experiment ended", experiment=experiment.experiment_id, reason=reason)
        if not (promote and experiment.result.decision.promoted):
            return experiment, False
        why = f"won experiment {experiment.experiment_id}" + (f": {reason}" if reason else "")
        await self._champion.promote(Change(experiment.challenger_version, experiment.champion_version, by, why))
        return experiment, True

    async def watch_once(self) -> None:
        """End the experiment if its challenger errs or is slow, or if another champion serves."""
        experiment = self._registry.experiment.running()
        if experiment is None:
            return
        if self._registry.alias.version() != experiment.champion_version:
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
        return summarise(observed, verdict(observed, experiment.champion_version))


def summarise(observed: Observed, decision: Decision) -> pb.ExperimentResult:
    """Return what was seen as the message that the registry keeps."""
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
