"""The limits of a request, and the checks that refuse a request beyond them.

Every check raises InvalidQuery, which names the field and says what to send instead.
"""

from collections.abc import Sequence
from datetime import UTC

import grpc
from moodfood.inference.v1 import inference_pb2 as pb

from services.inference.errors import InvalidQuery
from services.inference.queries.forgetting import Doomed
from services.language.text import describe_problem

MAX_BATCH_TEXTS = 256
MAX_TOP_K = 100
MAX_DISHES = 50
MAX_CONTEXT_CHARS = 200
MAX_KEY_CHARS = 128
MAX_FORGOTTEN_IDS = 10_000
DEFAULT_TOP_K = 5
DEFAULT_DISHES = 5


def check_query(text: str, field: str = "text") -> None:
    """Refuse a text that cannot be a query."""
    if problem := describe_problem(text):
        raise InvalidQuery(field, problem)


def check_batch(texts: Sequence[str]) -> None:
    """Refuse a batch that is empty or too large, or that contains a text that cannot be a query."""
    if not 1 <= len(texts) <= MAX_BATCH_TEXTS:
        raise InvalidQuery("texts", f"has {len(texts)} entries; send 1 to {MAX_BATCH_TEXTS}")
    for index, text in enumerate(texts):
        check_query(text, f"texts[{index}]")


def check_reload(request: pb.ReloadModelRequest) -> None:
    """Refuse a negative version or generation, and a phase that does not exist."""
    for field in ("version", "generation"):
        if getattr(request, field) < 0:
            raise InvalidQuery(field, "is negative; send 1 or more, or 0 for the champion's")
    if request.phase not in pb.ReloadPhase.values():
        raise InvalidQuery("phase", "is not valid; send prepare or commit, or leave it out to do both")


def read_top_k(asked: int) -> int:
    """Return how many labels to return, 1 to MAX_TOP_K; 0 becomes the default."""
    return _read_count(asked, DEFAULT_TOP_K, MAX_TOP_K, "top_k")


def read_max_dishes(asked: int) -> int:
    """Return how many dishes to return, 1 to MAX_DISHES; 0 becomes the default."""
    return _read_count(asked, DEFAULT_DISHES, MAX_DISHES, "max_dishes")


def read_caller_key(asked: str, context: grpc.aio.ServicerContext[object, object] | None) -> str:
    """Return the key of the caller: the one in the request, or else the host of the caller's address."""
    if len(asked) > MAX_KEY_CHARS:
        raise InvalidQuery("caller_key", f"has {len(asked):,} characters; send at most {MAX_KEY_CHARS}")
    return asked or (context.peer().rpartition(":")[0] if context is not None else "")


def read_context(context: pb.UserContext) -> dict[str, str]:
    """Return the texts of the user context, from field name to text, without the empty ones."""
    said = {"time_of_day": context.time_of_day, "weather": context.weather, "mood": context.mood}
    for field, text in said.items():
        if len(text) > MAX_CONTEXT_CHARS:
            raise InvalidQuery(f"context.{field}", f"has {len(text):,} characters; send at most {MAX_CONTEXT_CHARS}")
    return {field: text for field, text in said.items() if text}


def read_doomed(request: pb.ForgetQueryRecordsRequest) -> Doomed:
    """Return which query records to delete."""
    if len(request.query_ids) > MAX_FORGOTTEN_IDS:
        raise InvalidQuery("query_ids", f"has {len(request.query_ids):,} entries; send at most {MAX_FORGOTTEN_IDS:,}")
    if not request.query_ids and not request.HasField("before"):
        raise InvalidQuery("query_ids", "is empty and before is not set; send ids, or a time, or both")
    try:
        before = request.before.ToDatetime(UTC) if request.HasField("before") else None
    except (ValueError, OverflowError) as error:
        raise InvalidQuery("before", "is no time; send one of the years 1 to 9999") from error
    return Doomed(frozenset(request.query_ids), before)


def _read_count(asked: int, default: int, highest: int, field: str) -> int:
    if not 0 <= asked <= highest:
        raise InvalidQuery(field, f"is {asked}; send 1 to {highest}, or 0 for {default}")
    return asked or default
