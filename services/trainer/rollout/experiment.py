"""Starts, watches and ends experiments, one at a time.

The replicas follow the experiment file in the repository, which is made from the row of the experiment. Their answers
come to the trainer with the other queries. All of this blocks, so it is done in threads.
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
    StorageFailed,
    TrainerError,
)
from services.trainer.evaluation.gate import Decision
from services.trainer.evaluation.reports import promotion_decision
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.store import FeedbackStore
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.rollout.experiment_verdict import Observed, observe, pairs_of, reason_to_stop, verdict
from services.trainer.rollout.rehearsal import Rehearse, ensure_rehearsed

WATCH_EVERY_SECONDS = 5.0
BY_ITSELF = "trainer"
# The verdict is about so many of the newest queries.
MOST_OBSERVED = 20_000

_DEFAULT_SHARES = {pb.EXPERIMENT_KIND_SHADOW: 1.0, pb.EXPERIMENT_KIND_CANARY: 0.1}

_log = structlog.get_logger()


class Experiments:
    """Starts, watches and ends experiments. Use it on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        champion: Champion,
        rehearse: Rehearse,
        queries: QueryStore,
        feedback: FeedbackStore,
    ) -> None:
        self._registry = registry
        self._champion = champion
        self._rehearse = rehearse
        self._queries = queries
        self._feedback = feedback
        self._ending = asyncio.Lock()

    async def start(self, kind: "pb.ExperimentKind.ValueType", version: int, share: float, by: str) -> pb.Experiment:
        """Start an experiment. The version is rehearsed first if it was not before.

        Args:
            kind: shadow or canary.
            version: the challenger.
            share: share of the callers that take part, in (0, 1]; 0 means the default of the kind.
            by: who asks.

        Raises:
            InvalidRequest: a field is not valid, or the version is the champion.
            NoChampion: there is no champion to compare with.
            ModelVersionNotFound: the registry has no such version.
            VersionRefused: the gate or the rehearsal refused the version.
            ExperimentInProgress: another experiment is running.
            StorageFailed: the experiment has not started.

        """
        await asyncio.to_thread(self._check, kind, version, share)
        await ensure_rehearsed(self._registry, self._rehearse, version, by)
        experiment = pb.Experiment(
            experiment_id=uuid.uuid4().hex[:12],
            kind=kind,
            challenger_version=version,
            champion_version=await asyncio.to_thread(self._check, kind, version, share),
            share=share or _DEFAULT_SHARES[kind],
            running=True,
            by=by,
        )
        experiment.started_at.FromDatetime(datetime.now(UTC))
        await asyncio.to_thread(self._registry.experiment.begin, experiment)
        return experiment

    def _check(self, kind: "pb.ExperimentKind.ValueType", version: int, share: float) -> int:
        """Return the version of the champion. Raises what `start` raises when the experiment is not allowed."""
        if kind not in _DEFAULT_SHARES:
            raise InvalidRequest("kind", "is not valid; send shadow or canary")
        if not 0 <= share <= 1:
            raise InvalidRequest("share", f"is {share}; send a number above 0 and at most 1")
        champion, running = self._registry.alias.version(), self._registry.experiment.running()
        if champion == 0:
            raise NoChampion
        if running is not None:
            raise ExperimentInProgress(running.experiment_id)
        self._registry.versions.check_promotable(version)
        if version == champion:
            raise InvalidRequest("version", f"{version} is the champion; send the number of another version")
        return champion

    async def now(self) -> pb.Experiment | None:
        """Return the running or last experiment with its results so far; None when there was never one."""
        experiment = await asyncio.to_thread(self._registry.experiment.read)
        if experiment is not None and experiment.running:
            experiment.result.CopyFrom(await asyncio.to_thread(self._result, experiment))
        return experiment

    async def stop(self, by: str, reason: str, *, promote: bool) -> tuple[pb.Experiment, bool]:
        """End the experiment. Returns it, and whether its challenger was promoted.

        Raises:
            NoExperiment: no experiment is running.
            StorageFailed: the experiment is still running.
            TrainerError: any error of `Champion.promote`; the experiment has ended and the champion did not change.

        """
        async with self._ending:
            experiment = await asyncio.to_thread(self._registry.experiment.running)
            if experiment is None:
                raise NoExperiment
            experiment.result.CopyFrom(await asyncio.to_thread(self._result, experiment))
            experiment.running, experiment.reason = False, reason
            experiment.ended_at.FromDatetime(datetime.now(UTC))
            await asyncio.to_thread(self._end, experiment)
        _log.info("experiment ended", experiment=experiment.experiment_id, reason=reason)
        if not (promote and experiment.result.decision.promoted):
            return experiment, False
        why = f"won experiment {experiment.experiment_id}" + (f": {reason}" if reason else "")
        await self._champion.promote(Change(experiment.challenger_version, experiment.champion_version, by, why))
        return experiment, True

    async def watch_once(self) -> None:
        """End the experiment if its challenger fails too often or is too slow, or if the champion changed.

        It also publishes what a trainer stored and then could not publish.
        """
        await asyncio.to_thread(self._registry.experiment.publish)
        reason = await asyncio.to_thread(self._find_reason_to_stop)
        if reason:
            await self.stop(BY_ITSELF, reason, promote=False)

    def _find_reason_to_stop(self) -> str:
        experiment = self._registry.experiment.running()
        if experiment is None:
            return ""
        if self._registry.alias.version() != experiment.champion_version:
            return "the champion changed"
        return reason_to_stop(self._observe(experiment))

    def _end(self, experiment: pb.Experiment) -> None:
        self._registry.experiment.end(experiment)
        try:
            self._registry.experiment.publish()
        except StorageFailed as error:
            _log.error("the experiment has ended; the replicas are told when the storage works", problem=str(error))

    async def watch(self) -> None:
        """Call `watch_once` every WATCH_EVERY_SECONDS until this task is cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_SECONDS)
            try:
                await self.watch_once()
            except NoExperiment:
                continue
            except TrainerError as error:
                _log.warning("cannot watch the experiment", problem=str(error))
            except Exception as error:
                _log.error("cannot watch the experiment", exc_info=error)

    def _observe(self, experiment: pb.Experiment) -> Observed:
        labels = self._feedback.labels_in_experiment(experiment.experiment_id, MOST_OBSERVED)
        answered = self._queries.of_experiment(experiment.experiment_id, MOST_OBSERVED)
        return observe(pairs_of(answered, experiment.experiment_id), labels)

    def _result(self, experiment: pb.Experiment) -> pb.ExperimentResult:
        observed = self._observe(experiment)
        return summarise(observed, verdict(observed, experiment.champion_version))


def summarise(observed: Observed, decision: Decision) -> pb.ExperimentResult:
    """Return the results as the message that the registry stores."""
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
