"""Answers queries with the champion, or with a challenger on trial, and has every answer logged.

While an experiment goes on, both sides answer the callers that take part: one answer is given, the other is logged
beside it, made afterwards and off the event loop. A challenger that fails costs nobody an answer: the champion answers,
and the log says so.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.inference.classifiers.cascade import Open, Outcome, Stage, answer, ask, conclude
from services.inference.models.holder import ModelHolder
from services.inference.models.servable import Servable
from services.inference.queries.experiment import Trials
from services.inference.queries.query_log import QueryLog
from services.inference.queries.query_record import OtherSide, query_record_line
from services.inference.queries.trial import Trial
from services.language.names import CHALLENGER_ARM, CHAMPION_ARM

# Queries whose other side waits to be answered; beyond that they are logged without it.
MAX_WAITING = 256

_log = structlog.get_logger()


@dataclass(frozen=True)
class Answered:
    """One answer, the servable that gave it, and the seconds it took."""

    query_id: str
    text: str
    at: float
    outcome: Outcome
    servable: Servable
    seconds: float


@dataclass(frozen=True)
class _Sides:
    """Who answers a caller, who answers for the log, and why."""

    given: Servable
    arm: str = ""
    trial: Trial | None = None
    other: Servable | None = None
    failure: str = ""


class Answering:
    """Lives on the event loop."""

    def __init__(self, holder: ModelHolder, trials: Trials, query_log: QueryLog) -> None:
        self._holder = holder
        self._trials = trials
        self._query_log = query_log
        self._waiting: set[asyncio.Task[None]] = set()

    async def answer(self, texts: Sequence[str], top_k: int, caller_key: str) -> list[Answered]:
        """Answer the queries of one call, all by the same version."""
        sides, began = self._sides(caller_key), time.perf_counter()
        try:
            outcomes = await answered(texts, sides.given.stages, top_k)
        except Exception as error:
            if sides.arm != CHALLENGER_ARM or sides.other is None:
                raise
            _log.error("the challenger failed; the champion answers", version=sides.given.version, exc_info=error)
            sides = _Sides(sides.other, CHAMPION_ARM, sides.trial, failure=type(error).__name__)
            began = time.perf_counter()
            outcomes = await answered(texts, sides.given.stages, top_k)
        seconds = (time.perf_counter() - began) / len(texts)
        given = [
            Answered(uuid.uuid4().hex, text, time.time(), outcome, sides.given, seconds)
            for text, outcome in zip(texts, outcomes, strict=True)
        ]
        self._log(given, sides)
        return given

    async def close(self) -> None:
        """Log what is waiting for its other side."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=1.0)

    def _sides(self, caller_key: str) -> _Sides:
        champion, trial = self._holder.current, self._trials.current
        if trial is None or not trial.picks(caller_key):
            return _Sides(champion)
        if trial.canary:
            return _Sides(trial.challenger, CHALLENGER_ARM, trial, champion)
        return _Sides(champion, CHAMPION_ARM, trial, trial.challenger)

    def _log(self, given: Sequence[Answered], sides: _Sides) -> None:
        if sides.trial is None:
            for each in given:
                self._write(each, None)
        elif sides.other is None or len(self._waiting) >= MAX_WAITING:
            other = OtherSide(sides.trial.experiment_id, sides.arm, sides.trial.challenger.version, error=sides.failure)
            for each in given:
                self._write(each, other if sides.failure else None)
        else:
            task = asyncio.create_task(self._answer_for_the_log(given, sides, sides.trial, sides.other))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _answer_for_the_log(
        self, given: Sequence[Answered], sides: _Sides, trial: Trial, asked: Servable
    ) -> None:
        began = time.perf_counter()
        try:
            outcomes = await asyncio.to_thread(answer, [each.text for each in given], asked.stages, 1)
        except Exception as error:
            _log.error("the other side of an experiment failed", version=asked.version, exc_info=error)
            failed = OtherSide(trial.experiment_id, sides.arm, asked.version, error=type(error).__name__)
            for each in given:
                self._write(each, failed)
            return
        seconds = (time.perf_counter() - began) / len(given)
        for each, outcome in zip(given, outcomes, strict=True):
            best = outcome.intents[0]
            self._write(
                each, OtherSide(trial.experiment_id, sides.arm, asked.version, best.label, best.confidence, seconds)
            )

    def _write(self, each: Answered, other: OtherSide | None) -> None:
        self._query_log.add(
            lambda: query_record_line(
                each.query_id, each.at, each.text, each.outcome, each.servable.version, each.seconds, other
            )
        )


async def answered(texts: Sequence[str], stages: Sequence[Stage], top_k: int) -> list[Outcome]:
    """Ask the cascade; what takes milliseconds runs in a thread, where it delays nobody else's query."""
    if len(texts) > 1:
        return await asyncio.to_thread(answer, texts, stages, top_k)
    asked: list[Outcome | Open] = [Open(text) for text in texts]
    for index, stage in enumerate(stages):
        if stage.takes_milliseconds and any(isinstance(each, Open) for each in asked):
            return await asyncio.to_thread(conclude, asked, stages[index:], top_k)
        asked = ask(asked, stage, top_k)
    return conclude(asked, (), top_k)
