"""Answered queries, the writer that keeps them, and a replica that delivers them, on the disk of a test."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from moodfood.inference.v1 import inference_pb2_grpc

from services.inference.classifiers.cascade import Answer, Stage, StageKind
from services.inference.classifiers.ranking import Intent
from services.inference.classifiers.taxonomy import NO_TAXONOMY
from services.inference.dishes.catalogue import NO_CATALOGUE
from services.inference.dishes.recommender import Recommender
from services.inference.error_table import ERROR_TABLE
from services.inference.models.holder import ModelHolder
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.models.servable import Servable
from services.inference.queries.experiment import ExperimentFollower
from services.inference.queries.query_log import QueryLog
from services.inference.queries.query_record import AnsweredQuery
from services.inference.queries.query_writer import QueryWriter
from services.inference.queries.spools import Spools
from services.inference.servicer import InferenceServicer
from services.repository.opening import open_repository
from services.transport.serving import build_server
from tests.fakes import FakeClassifier

BIG = 10**9
NOTHING_SERVES = Servable(0, 0, (), 0, 0.0, None)


def make_query(query_id: str, text: str = "soup", at: float | None = None, seconds: float = 0.001) -> AnsweredQuery:
    """Return a query that was answered with one label."""
    answer = Answer((Intent("soup", 0.9),), StageKind.LINEAR)
    return AnsweredQuery(query_id, text, time.time() if at is None else at, answer, NOTHING_SERVES, seconds)


def write_to(folder: Path) -> QueryWriter:
    """Start a writer with the query log `query_logs.jsonl` and the spools `spool` in a folder."""
    writer = QueryWriter(QueryLog(folder / "query_logs.jsonl", BIG, 3), Spools(folder / "spool", BIG))
    writer.start()
    return writer


@dataclass
class Replica:
    """A real inference server without a model, whose queries a test adds itself."""

    address: str
    servicer: InferenceServicer
    server: grpc.aio.Server
    writer: QueryWriter


@asynccontextmanager
async def replica(folder: Path, port: int = 0) -> AsyncIterator[Replica]:
    """Serve what waits in the spools of a folder, on a free port if none is given."""
    writer, registry = write_to(folder), RegistryReader(open_repository("", folder, "small"), "small")
    keywords = Stage(StageKind.KEYWORD, FakeClassifier(()))
    holder = ModelHolder(registry, Loader(registry, keywords, 1, None), 600.0)
    recommender, experiments = Recommender(NO_TAXONOMY, NO_CATALOGUE), ExperimentFollower(registry, holder)
    servicer = InferenceServicer("small", holder, registry, recommender, writer, experiments)
    server = build_server(ERROR_TABLE)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield Replica(f"127.0.0.1:{port}", servicer, server, writer)
    finally:
        servicer.end_streams()
        await server.stop(1.0)
        writer.close()
