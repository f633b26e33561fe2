"""Starts the inference service: the only place that reads its environment and wires its objects."""

import asyncio
from pathlib import Path

import structlog
import uvloop
from moodfood.inference.v1 import inference_pb2_grpc

from services.inference.classifiers.cascade import Stage, StageKind
from services.inference.classifiers.keywords import KeywordClassifier
from services.inference.classifiers.taxonomy import NO_TAXONOMY, load_taxonomy
from services.inference.dishes.catalogue import NO_CATALOGUE, load_catalogue
from services.inference.dishes.recommender import Recommender
from services.inference.error_table import ERROR_TABLE
from services.inference.errors import BrokenData, InferenceError
from services.inference.models.following import follow
from services.inference.models.holder import ModelHolder
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.inference.queries.experiment import ExperimentFollower
from services.inference.queries.query_log import QueryLog
from services.inference.queries.query_writer import QueryWriter
from services.inference.queries.spools import Spools
from services.inference.servicer import SERVICE_NAME, InferenceServicer
from services.inference.settings import Settings
from services.language.encoder import Encoder, EncoderDamaged, load_encoder
from services.repository.opening import open_repository
from services.transport.logs import configure_logs
from services.transport.serving import bind, build_server, start, until_signal
from services.transport.settings import address, load_settings
from services.transport.startup import exit_on_setup_errors

LONGEST_START_SECONDS = 60.0

_log = structlog.get_logger()


def load_usable_encoder(folder: Path) -> Encoder | None:
    """Return the encoder, or None and a line in the log when there is none that works."""
    try:
        encoder = load_encoder(folder)
    except EncoderDamaged as error:
        _log.error("serving without the transformer stage", problem=str(error))
        return None
    if encoder is None:
        _log.warning("serving without the transformer stage", problem=f"there is no encoder in {folder}")
    return encoder


async def load_champion(holder: ModelHolder) -> None:
    """Load the champion before queries come. A registry that cannot be read is only logged: it is followed later."""
    try:
        await asyncio.wait_for(holder.converge(), LONGEST_START_SECONDS)
    except (TimeoutError, InferenceError) as error:
        problem = str(error) or f"the registry gave no answer in {LONGEST_START_SECONDS:.0f} s"
        _log.error("serving without a model until the registry can be read", problem=problem)


async def serve(settings: Settings) -> None:
    """Serve until a signal comes."""
    taxonomy = load_taxonomy(settings.taxonomy_path) if settings.taxonomy_path else NO_TAXONOMY
    catalogue = load_catalogue(settings.catalogue_path) if settings.catalogue_path else NO_CATALOGUE
    recommender = Recommender(taxonomy, catalogue)
    keyword_stage = Stage(StageKind.KEYWORD, KeywordClassifier(taxonomy.entries.values()))
    registry = RegistryReader(open_repository(settings.models_url, settings.models_dir, settings.model), settings.model)
    loader = Loader(registry, keyword_stage, len(taxonomy.entries), load_usable_encoder(settings.encoder_path))
    holder = ModelHolder(registry, loader, settings.keep_warm_seconds)
    query_log = QueryLog(settings.query_log_path, settings.query_log_max_bytes, settings.query_log_keep_files)
    query_writer = QueryWriter(query_log, Spools(settings.spool_dir, settings.spool_max_bytes))

    experiments = ExperimentFollower(registry, holder)
    servicer = InferenceServicer(settings.model, holder, registry, recommender, query_writer, experiments)

    server = build_server(ERROR_TABLE)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = bind(server, settings.host, settings.inference_port, "MOODFOOD_INFERENCE_PORT")
    await load_champion(holder)
    query_writer.start()
    stop = await start(server, [SERVICE_NAME])
    following = [
        asyncio.create_task(follow("the champion alias", holder.converge)),
        asyncio.create_task(follow("the experiment", experiments.converge)),
    ]
    _log.info("inference serving", address=address(settings.host, port), version=holder.current.version)

    signal_name = await until_signal()
    _log.info("inference stopping", signal=signal_name)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    servicer.end_streams()
    await stop()
    await servicer.close()
    query_writer.close()


def main() -> None:
    """Run the service."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    exit_on_setup_errors(main, BrokenData)
