"""Calls that may block, in a thread of their own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def call_in_thread(work: Callable[[], T]) -> T:
    """Call a function in a new thread, and return or raise what it returns or raises.

    A network volume that hangs blocks its thread for as long as it hangs. So this thread is none of the pool that
    answers queries, and the process does not wait for it when it ends.
    """
    outcome: Future[T] = Future()
    # From now on a caller that gives up cannot cancel it, so the thread may always say how it ended.
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="registry", daemon=True).start()
    return await asyncio.wrap_future(outcome)
