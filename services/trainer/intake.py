"""Takes in what people say a query means: checks it, finds the text of a corrected answer, stores it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.trainer.errors import InvalidRequest, UnknownQuery
from services.trainer.feedback import Feedback, FeedbackStore
from services.trainer.query_index import QueryIndex
from services.trainer.text import problem_with

MAX_LABELS = 10
MAX_USER_ID_CHARS = 128
MAX_ERRORS = 100
MAX_IMPORTED = 100_000
LOG_DELAY_ATTEMPTS = 15
LOG_DELAY_SECONDS = 0.1


@dataclass(frozen=True)
class LineError:
    """A bad example of an import: position from 1, field at fault, what is wrong."""

    line: int
    field: str
    problem: str


class Intake:
    """Stores feedback. Files are read and written in threads, one at a time."""

    def __init__(self, store: FeedbackStore, index: QueryIndex, labels: Sequence[str]) -> None:
        self._store = store
        self._index = index
        self._labels = frozenset(labels)
        self._one_at_a_time = asyncio.Lock()

    async def add(self, query_id: str, text: str, labels: Sequence[str], user_id: str) -> str:
        """Store one statement and return its id.

        Raises:
            InvalidRequest: names the field.
            UnknownQuery: the query log does not hold the id.
            StorageFailed: it was not stored.

        """
        if bool(query_id) == bool(text):
            raise InvalidRequest("text" if text else "query_id", "send either query_id or text, not both or none")
        if len(user_id) > MAX_USER_ID_CHARS:
            raise InvalidRequest("user_id", f"is longer than {MAX_USER_ID_CHARS} characters")
        self._check_labels(labels)
        said = await self._text_of(query_id) if query_id else text
        if problem := problem_with(said):
            raise InvalidRequest("text", problem)
        feedback = Feedback(said, tuple(labels), query_id, user_id)
        async with self._one_at_a_time:
            (feedback_id,) = await asyncio.to_thread(self._store.add, [feedback])
        return feedback_id

    async def add_all(self, examples: AsyncIterator[tuple[str, Sequence[str]]]) -> tuple[int, list[LineError]]:
        """Store every example, or none when one is bad; return how many were stored and the first bad ones.

        Raises:
            InvalidRequest: more examples than one import may have.
            StorageFailed: none was stored.

        """
        accepted: list[Feedback] = []
        errors: list[LineError] = []
        line = 0
        async for text, labels in examples:
            line += 1
            if line > MAX_IMPORTED:
                raise InvalidRequest("examples", f"are more than {MAX_IMPORTED:,}; import them in parts")
            error = self._line_error(line, text, labels)
            if error is None:
                accepted.append(Feedback(text, tuple(labels), source="import"))
            elif len(errors) < MAX_ERRORS:
                errors.append(error)
        if errors or not accepted:
            return 0, errors
        async with self._one_at_a_time:
            await asyncio.to_thread(self._store.add, accepted)
        return len(accepted), []

    def _line_error(self, line: int, text: str, labels: Sequence[str]) -> LineError | None:
        if problem := problem_with(text):
            return LineError(line, "text", problem)
        try:
            self._check_labels(labels)
        except InvalidRequest as error:
            return LineError(line, error.field, error.problem)
        return None

    def _check_labels(self, labels: Sequence[str]) -> None:
        if not 1 <= len(labels) <= MAX_LABELS:
            raise InvalidRequest("labels", f"has {len(labels)} entries; send 1 to {MAX_LABELS}")
        for index, label in enumerate(labels):
            if label not in self._labels:
                raise InvalidRequest(f"labels[{index}]", f"{label[:80]!r} is no label of the taxonomy")
        if len(set(labels)) != len(labels):
            raise InvalidRequest("labels", "names a label twice")

    async def _text_of(self, query_id: str) -> str:
        """Look the id up, for a moment longer than inference takes to write its log."""
        for attempt in range(LOG_DELAY_ATTEMPTS):
            if attempt:
                await asyncio.sleep(LOG_DELAY_SECONDS)
            async with self._one_at_a_time:
                text = await asyncio.to_thread(self._index.text_of, query_id)
            if text is not None:
                return text
        raise UnknownQuery(query_id[:80])
