"""The child process of one training run, seen from the trainer: started, listened to, ended."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator

from google.protobuf import json_format
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.runs.plan import Plan

MAX_LINE_BYTES = 1024 * 1024
# Threads of OpenBLAS spin while they wait for one another. Beside the other services on two cores that took most of a
# training's time (50-60 s instead of 16 s for two small runs), so they go to sleep early. A value that is set counts.
THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OPENBLAS_THREAD_TIMEOUT": "4"}


async def run_worker(plan: Plan) -> AsyncGenerator[pb.TrainingRun, None]:
    """Start `services.trainer.runs.worker` and yield what it reports: runs in which only the changed fields are set.

    Closing the generator ends the child. The child also ends by itself when this process ends, however that ends,
    because its standard input closes.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.trainer.runs.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE_BYTES,
        env={**THREADS, **os.environ},
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the child has no pipes")
        process.stdin.write(plan.to_line())
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        async for line in process.stdout:
            with contextlib.suppress(json_format.ParseError):
                yield json_format.Parse(line, pb.TrainingRun())
    finally:
        # The child has ended by itself, unless the caller closed this generator early.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
