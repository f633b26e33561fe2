"""Stand-ins that implement a protocol and record what they were asked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from moodfood.inference.v1 import inference_pb2

from services.inference.classifiers.ranking import Intent, Ranking
from services.transport.errors import ErrorTable
from services.transport.serving import build_server


@dataclass
class FakeClassifier:
    """Answers every query with the same ranking."""

    intents: tuple[Intent, ...]
    scores: np.ndarray | None = None
    asked: list[str] = field(default_factory=list)

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        self.asked.extend(queries)
        reason = "" if self.intents else "fake abstains"
        return [Ranking(self.intents[:top_k], reason, self.scores) for _ in queries]


class Partial:
    """A servicer that answers UNIMPLEMENTED to every method it does not have."""

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)

        async def unimplemented(request: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the fake has no {name}")

        return unimplemented


class FakeReplica(Partial):
    """An inference replica that prepares and swaps on request, or refuses one of them."""

    def __init__(self, refuses: frozenset[int] = frozenset(), refuses_to_commit: frozenset[int] = frozenset()) -> None:
        self.refuses = refuses
        self.refuses_to_commit = refuses_to_commit
        self.prepared: list[tuple[int, int]] = []
        self.reloads: list[tuple[int, int]] = []

    async def ReloadModel(self, request: Any, context: Any) -> inference_pb2.ReloadModelResponse:
        preparing = request.phase == inference_pb2.RELOAD_PHASE_PREPARE
        if request.version in (self.refuses if preparing else self.refuses_to_commit):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the probe check failed")
        (self.prepared if preparing else self.reloads).append((request.version, request.generation))
        return inference_pb2.ReloadModelResponse(version=self.serving, prepared=preparing)

    async def GetModelStatus(self, request: Any, context: Any) -> inference_pb2.GetModelStatusResponse:
        version, generation = self.reloads[-1] if self.reloads else (0, 0)
        return inference_pb2.GetModelStatusResponse(version=version, generation=generation)

    @property
    def serving(self) -> int:
        return self.reloads[-1][0] if self.reloads else 0


@asynccontextmanager
async def running(servicer: Any, add: Any, errors: ErrorTable | None = None) -> AsyncIterator[str]:
    """Serve a servicer on a free port of the loopback and yield its address."""
    server = build_server(errors or {})
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
