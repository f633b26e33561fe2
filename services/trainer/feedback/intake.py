"""Takes in feedback: checks it, looks up the text of the corrected answer, and stores it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice

from services.trainer.dataset.examples import IMPORT, Example
from services.trainer.dataset.files import BadLine, Format, parse_file
from services.trainer.dataset.words import describe_problem
from services.trainer.errors import InvalidRequest, UnknownQuery
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import Feedback, FeedbackStore

MAX_LABELS = 10
MAX_ERRORS = 100
# gRPC refuses an answer whose error texts are longer than a few thousand characters.
MAX_SHOWN_LABELS = 10
MAX_SHOWN_CHARS = 40
MAX_IMPORTED = 100_000
MAX_FILE_BYTES = 64 * 1024 * 1024
# A query arrives within a second of its answer.
ARRIVAL_ATTEMPTS = 15
ARRIVAL_SECONDS = 0.1


class Intake:
    """Checks and stores feedback. Use it on the event loop; it reads and writes in threads."""

    def __init__(
        self,
        store: FeedbackStore,
        queries: QueryStore,
        queue: ReviewQueue,
        known_labels: Callable[[], Sequence[str]],
    ) -> None:
        self._store = store
        self._queries = queries
        self._queue = queue
        self._known_labels = known_labels

    async def add(self, query_id: str, text: str, labels: Sequence[str], user_id: str, request_id: str = "") -> str:
        """Store the labels of one query and return the id of the feedback.

        With a request id that this person has used before, nothing is stored and the id of the first call is returned.

        Args:
            query_id: the answer to correct; empty when `text` is given.
            text: the query; empty when `query_id` is given.
            labels: the right labels.
            user_id: who says so; may be empty.
            request_id: the key of this person's request; may be empty.

        Raises:
            InvalidRequest: a field is not valid.
            UnknownQuery: no query with this id is stored.
            StorageFailed: the feedback was not stored.

        """
        if bool(query_id) == bool(text):
            raise InvalidRequest("text" if text else "query_id", "send exactly one of query_id and text")
        _check_labels(labels, await asyncio.to_thread(self._known_labels))
        said = await self._text_of(query_id) if query_id else text
        if problem := describe_problem(said):
            raise InvalidRequest("text", problem)
        feedback = Feedback(said, tuple(labels), query_id, user_id, request_id=request_id)
        (feedback_id,) = await asyncio.to_thread(self._store.add, [feedback])
        return feedback_id

    async def add_all(self, examples: AsyncIterator[tuple[str, Sequence[str]]]) -> tuple[int, list[BadLine]]:
        """Store every example, or none when one of them is not valid.

        Returns:
            The number of stored examples, and the first MAX_ERRORS that are not valid.

        Raises:
            InvalidRequest: there are more than MAX_IMPORTED examples, or they are larger than MAX_FILE_BYTES.
            StorageFailed: no example was stored.

        """
        rows: list[tuple[int, Example]] = []
        chars = 0
        async for text, labels in examples:
            rows.append((len(rows) + 1, Example(text, tuple(labels))))
            chars += len(text) + sum(map(len, labels))
            if chars > MAX_FILE_BYTES:
                raise InvalidRequest("examples", f"are over {MAX_FILE_BYTES // 2**20} MiB; import them in parts")
            _check_count(len(rows))
        return await asyncio.to_thread(self._keep_all, rows)

    async def add_file(self, content: bytes, file_format: Format) -> tuple[int, list[BadLine]]:
        """Do what `add_all` does for a file."""
        rows = await asyncio.to_thread(lambda: list(islice(parse_file(content, file_format), MAX_IMPORTED + 1)))
        _check_count(len(rows))
        return await asyncio.to_thread(self._keep_all, rows)

    async def resolve(
        self, item: str, labels: Sequence[str], *, out_of_scope: bool, dismiss: bool, user_id: str
    ) -> str:
        """Decide a review item and return the id of the stored feedback; empty when the item was dismissed.

        Raises:
            InvalidRequest: a field is not valid.
            ReviewItemNotFound: there is no such item, or it was already decided.
            StorageFailed: the item is still open.

        """
        if [bool(labels), out_of_scope, dismiss].count(True) != 1:
            raise InvalidRequest("labels", "send exactly one of labels, out_of_scope and dismiss")
        if labels:
            _check_labels(labels, await asyncio.to_thread(self._known_labels))
        return await asyncio.to_thread(self._queue.decide, item, None if dismiss else labels, user_id)

    def _keep_all(self, rows: Iterable[tuple[int, Example] | BadLine]) -> tuple[int, list[BadLine]]:
        accepted: list[Feedback] = []
        errors: list[BadLine] = []
        known = self._known_labels()
        for row in rows:
            error = row if isinstance(row, BadLine) else _find_problem(*row, known)
            if error is not None:
                errors.append(error)
                if len(errors) == MAX_ERRORS:
                    break
            elif not isinstance(row, BadLine):
                accepted.append(Feedback(row[1].text, row[1].labels, source=IMPORT))
        if errors or not accepted:
            return 0, errors
        self._store.add(accepted)
        return len(accepted), []

    async def _text_of(self, query_id: str) -> str:
        """Return the text of a query. It waits for as long as a query needs to arrive from its replica.

        Raises:
            UnknownQuery: no query with this id is stored.

        """
        for attempt in range(ARRIVAL_ATTEMPTS):
            if attempt:
                await asyncio.sleep(ARRIVAL_SECONDS)
            text = await asyncio.to_thread(self._queries.text_of, query_id)
            if text is not None:
                return text
        raise UnknownQuery(query_id[:80])


def _find_problem(line: int, example: Example, known: Sequence[str]) -> BadLine | None:
    if problem := describe_problem(example.text):
        return BadLine(line, "text", problem)
    try:
        _check_labels(example.labels, known)
    except InvalidRequest as error:
        return BadLine(line, error.field, error.problem)
    return None


def _check_labels(labels: Sequence[str], known: Sequence[str]) -> None:
    if not 1 <= len(labels) <= MAX_LABELS:
        raise InvalidRequest("labels", f"has {len(labels)} entries; send 1 to {MAX_LABELS}")
    for index, label in enumerate(labels):
        if label not in known:
            raise InvalidRequest(f"labels[{index}]", _describe_unknown_label(label, known))
    if len(set(labels)) != len(labels):
        raise InvalidRequest("labels", "has a label twice; send each label once")


def _check_count(count: int) -> None:
    if count > MAX_IMPORTED:
        raise InvalidRequest("examples", f"are more than {MAX_IMPORTED:,}; import them in parts")


def _describe_unknown_label(label: str, known: Sequence[str]) -> str:
    """Say that a label is not known, which known one is spelt nearly like it, and some of those that exist."""
    close = get_close_matches(label[:MAX_SHOWN_CHARS], known, n=1)
    problem = f"{_cut(label)!r} is not a known label" + (f"; did you mean {_cut(close[0])!r}?" if close else ".")
    shown = ", ".join(_cut(name) for name in known[:MAX_SHOWN_LABELS])
    more = f" and {len(known) - MAX_SHOWN_LABELS} more" if len(known) > MAX_SHOWN_LABELS else ""
    return f"{problem} Known labels: {shown}{more}"


def _cut(label: str) -> str:
    return label if len(label) <= MAX_SHOWN_CHARS else f"{label[:MAX_SHOWN_CHARS]}…"
