"""Starts the child process of one training run, reads its reports, and ends it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Callable

from google.protobuf import json_format
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.runs.plan import Plan

# Carries out a plan and yields its reports: TrainingRuns with only the changed fields.
Train = Callable[[Plan], AsyncGenerator[pb.TrainingRun, None]]

MAX_LINE_BYTES = 1024 * 1024
# What is set in the environment counts instead.
THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}


async def run_worker(plan: Plan) -> AsyncGenerator[pb.TrainingRun, None]:
    """Start `services.trainer.runs.worker` and yield its reports.

    The plan travels through a pipe: it may hold a password, and everybody on a machine sees arguments. When the
    generator is closed, the child is killed. The child also ends when this process ends, because then its standard
    input closes.
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
        # A child that is killed at once takes no plan, and uvloop then raises RuntimeError. Its output ends: that is
        # enough.
        with contextlib.suppress(ConnectionError, RuntimeError):
            process.stdin.write(plan.to_line())
            await process.stdin.drain()
        async for line in process.stdout:
            with contextlib.suppress(json_format.ParseError):
                yield json_format.Parse(line, pb.TrainingRun())
    finally:
        # The child has already ended, unless the caller closed this generator early.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
