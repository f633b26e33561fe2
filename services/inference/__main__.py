"""Starts the inference service: the only place that reads its environment and wires its objects."""

import asyncio
import contextlib
from pathlib import Path

import structlog
import uvloop
from moodfood.inference.v1 import inference_pb2_grpc

from services.inference.cascade import Stage, StageKind
from services.inference.catalogue import Catalogue, load_catalogue
from services.inference.encoder import Encoder, load_encoder
from services.inference.errors import BrokenData, EncoderRejected
from services.inference.keywords import KeywordClassifier
from services.inference.loader import Loader
from services.inference.query_log import QueryLog
from services.inference.recommendation import Recommender
from services.inference.reload import ModelHolder
from services.inference.repository import ModelRepository
from services.inference.servicer import SERVICE_NAME, InferenceServicer
from services.inference.settings import Settings
from services.inference.status import ERROR_TABLE
from services.inference.taxonomy import Taxonomy, load_taxonomy
from services.inference.trials import Trials
from services.transport.logs import configure_logs
from services.transport.serving import bind, build_server, start, until_signal
from services.transport.settings import address, load_settings
from services.transport.startup import exit_on_setup_errors

_log = structlog.get_logger()


def usable_encoder(folder: Path) -> Encoder | None:
    """Return the encoder, or None and a line in the log when there is none that works."""
    try:
        encoder = load_encoder(folder)
    except EncoderRejected as error:
        _log.error("serving without the transformer stage", problem=str(error))
        return None
    if encoder is None:
        _log.warning("serving without the transformer stage", problem=f"there is no encoder in {folder}")
    return encoder


async def serve(settings: Settings) -> None:
    """Serve until a signal comes."""
    taxonomy = load_taxonomy(settings.taxonomy_path) if settings.taxonomy_path else Taxonomy({}, "", {})
    catalogue = load_catalogue(settings.catalogue_path) if settings.catalogue_path else Catalogue({}, ())
    recommender = Recommender(taxonomy, catalogue)
    keyword_stage = Stage(StageKind.KEYWORD, KeywordClassifier(taxonomy.entries.values()))
    repository = ModelRepository(settings.models_dir, settings.model)
    loader = Loader(repository, keyword_stage, len(taxonomy.entries), usable_encoder(settings.encoder_path))
    holder = ModelHolder(repository, loader, settings.keep_warm_seconds)
    query_log = QueryLog(settings.query_log_path, settings.query_log_max_bytes, settings.query_log_keep_files)

    trials = Trials(repository, holder)
    servicer = InferenceServicer(settings.model, holder, repository, recommender, query_log, trials)

    server = build_server(ERROR_TABLE)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = bind(server, settings.host, settings.inference_port, "MOODFOOD_INFERENCE_PORT")
    await holder.converge()
    query_log.start()
    stop = await start(server, [SERVICE_NAME])
    following = asyncio.gather(holder.follow_alias(), trials.follow())
    _log.info("inference serving", address=address(settings.host, port), version=holder.current.version)

    signal_name = await until_signal()
    _log.info("inference stopping", signal=signal_name)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    await stop()
    await servicer.close()
    query_log.close()


def main() -> None:
    """Run the service."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    exit_on_setup_errors(main, BrokenData)
