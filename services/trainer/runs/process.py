"""The child process of one run, seen from the trainer: started, listened to, killed."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator

from google.protobuf import json_format
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.runs.plan import Plan

MAX_LINE_BYTES = 16 * 1024 * 1024
THREADS = "2"


class TrainingProcess:
    """Runs `services.trainer.runs.worker`, which ends by itself when this process ends: its standard input closes."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._killed = False

    async def run(self, plan: Plan) -> AsyncGenerator[pb.TrainingRun, None]:
        """Start the child and yield what it reports: runs in which only the changed fields are set.

        Closing the generator ends the child.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.trainer.runs.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env={**os.environ, "OMP_NUM_THREADS": THREADS, "OPENBLAS_NUM_THREADS": THREADS},
        )
        self._process = process
        if self._killed:
            self.kill()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the child has no pipes")
        process.stdin.write(plan.to_line())
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        try:
            async for line in process.stdout:
                with contextlib.suppress(json_format.ParseError):
                    yield json_format.Parse(line, pb.TrainingRun())
        finally:
            # Standard output ends with the child, unless whoever listens has had enough.
            if not process.stdout.at_eof():
                self.kill()
                await process.stdout.read()
            await process.wait()
            process.stdin.close()
            self._process = None

    def kill(self) -> None:
        """End the child at once, also one that is being started."""
        self._killed = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
