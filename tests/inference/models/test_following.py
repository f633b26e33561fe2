import asyncio
import errno

import pytest

from services.inference.models.following import follow

pytestmark = pytest.mark.anyio


async def test_storage_that_refuses_for_a_while_does_not_end_the_following() -> None:
    refusals = [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")]
    looked = asyncio.Event()

    async def look() -> None:
        if refusals:
            raise refusals.pop()
        looked.set()

    following = asyncio.create_task(follow("the champion alias", look, 0.001))
    try:
        await asyncio.wait_for(looked.wait(), 30)
    finally:
        following.cancel()


async def test_following_ends_when_it_is_cancelled_during_a_look() -> None:
    looking = asyncio.Event()

    async def look() -> None:
        looking.set()
        await asyncio.Event().wait()

    following = asyncio.create_task(follow("the champion alias", look, 0.001))
    await looking.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
