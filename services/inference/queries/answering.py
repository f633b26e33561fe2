"""Answers queries with the champion, or with the challenger of an experiment, and logs every answer.

In an experiment, both arms answer the queries of the callers that take part. The caller gets one of the two answers.
The other one, the shadow answer, is computed afterwards in a thread and only goes to the log. When the challenger fails
in a canary experiment, the champion answers instead, and the log records the failure.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.inference.classifiers.cascade import Answer, OpenQuery, Stage, answer, answer_unknown, ask_stages
from services.inference.models.holder import ModelHolder
from services.inference.models.servable import Servable
from services.inference.queries.experiment import Experiment, ExperimentFollower
from services.inference.queries.query_record import AnsweredQuery, ShadowAnswer
from services.inference.queries.query_writer import QueryWriter
from services.language.names import CHALLENGER_ARM, CHAMPION_ARM

# The largest number of calls that wait for their shadow answers. Further calls are logged without shadow answers.
MAX_WAITING = 256

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Roles:
    """Which version answers a caller, and which one gives the shadow answer.

    Attributes:
        answerer: the version that answers the caller.
        arm: the arm of the experiment that the answerer is; empty when the caller takes part in none.
        experiment: the experiment; None when the caller takes part in none.
        shadow: the version that gives the shadow answer; None when there is none.
        failure: name of the challenger's exception, when the champion answers in its place; else empty.

    """

    answerer: Servable
    arm: str = ""
    experiment: Experiment | None = None
    shadow: Servable | None = None
    failure: str = ""


class Answerer:
    """Answers and logs queries. Use it on the event loop."""

    def __init__(self, holder: ModelHolder, experiments: ExperimentFollower, query_writer: QueryWriter) -> None:
        self._holder = holder
        self._experiments = experiments
        self._query_writer = query_writer
        self._waiting: set[asyncio.Task[None]] = set()

    async def answer(self, texts: Sequence[str], top_k: int, caller_key: str) -> list[AnsweredQuery]:
        """Return one answer of at most top_k labels for each text, in order, all by the same version."""
        roles, began = self._assign_roles(caller_key), time.perf_counter()
        try:
            answers = await answer_live(texts, roles.answerer.stages, top_k)
        except Exception as error:
            if roles.arm != CHALLENGER_ARM or roles.shadow is None:
                raise
            _log.error("the challenger failed; the champion answers", version=roles.answerer.version, exc_info=error)
            roles = _Roles(roles.shadow, CHAMPION_ARM, roles.experiment, failure=type(error).__name__)
            began = time.perf_counter()
            answers = await answer_live(texts, roles.answerer.stages, top_k)
        seconds = (time.perf_counter() - began) / len(texts)
        queries = [
            AnsweredQuery(uuid.uuid4().hex, text, time.time(), given, roles.answerer, seconds)
            for text, given in zip(texts, answers, strict=True)
        ]
        self._log(queries, roles)
        return queries

    async def settle(self) -> None:
        """Wait, at most one second, until the calls that wait for shadow answers are logged."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=1.0)

    def _assign_roles(self, caller_key: str) -> _Roles:
        champion, experiment = self._holder.current, self._experiments.current
        if experiment is None or not experiment.includes(caller_key):
            return _Roles(champion)
        if experiment.canary:
            return _Roles(experiment.challenger, CHALLENGER_ARM, experiment, champion)
        return _Roles(champion, CHAMPION_ARM, experiment, experiment.challenger)

    def _log(self, queries: Sequence[AnsweredQuery], roles: _Roles) -> None:
        experiment = roles.experiment
        if experiment is not None and roles.shadow is not None and len(self._waiting) < MAX_WAITING:
            task = asyncio.create_task(self._log_with_shadow(queries, roles.arm, experiment, roles.shadow))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            return
        failed = None
        if experiment is not None and roles.failure:
            failed = ShadowAnswer(
                experiment.experiment_id, roles.arm, experiment.challenger.version, error=roles.failure
            )
        for query in queries:
            self._query_writer.add(query, failed)

    async def _log_with_shadow(
        self, queries: Sequence[AnsweredQuery], arm: str, experiment: Experiment, shadow: Servable
    ) -> None:
        experiment_id, began = experiment.experiment_id, time.perf_counter()
        try:
            answers = await asyncio.to_thread(answer, [query.text for query in queries], shadow.stages, 1)
        except Exception as error:
            _log.error("the shadow of an experiment failed", version=shadow.version, exc_info=error)
            failed = ShadowAnswer(experiment_id, arm, shadow.version, error=type(error).__name__)
            for query in queries:
                self._query_writer.add(query, failed)
            return
        seconds = (time.perf_counter() - began) / len(queries)
        for query, given in zip(queries, answers, strict=True):
            best = given.intents[0]
            given_beside = ShadowAnswer(experiment_id, arm, shadow.version, best.label, best.confidence, seconds)
            self._query_writer.add(query, given_beside)


async def answer_live(texts: Sequence[str], stages: Sequence[Stage], top_k: int) -> list[Answer]:
    """Return the answers that `cascade.answer` returns, without blocking the event loop.

    The fast stages answer a single query on the event loop. A batch and the slow stages run in a thread, where they do
    not delay other queries.
    """
    quick = _count_quick(stages) if len(texts) == 1 else 0
    queries = ask_stages([OpenQuery(text) for text in texts], stages[:quick], top_k)
    if quick < len(stages) and any(isinstance(query, OpenQuery) for query in queries):
        queries = await asyncio.to_thread(ask_stages, queries, stages[quick:], top_k)
    return answer_unknown(queries)


def _count_quick(stages: Sequence[Stage]) -> int:
    for count, stage in enumerate(stages):
        if stage.takes_milliseconds:
            return count
    return len(stages)
