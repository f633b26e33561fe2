"""Starts the trainer: reads its settings and wires its objects."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop
from google.longrunning import operations_grpc_pb2
from moodfood.trainer.v1 import experiments_pb2_grpc, scheduler_pb2_grpc, trainer_pb2, trainer_pb2_grpc

from services.trainer.api import experiments as experiments_api
from services.trainer.api import schedules, training
from services.trainer.api.error_table import ERROR_TABLE
from services.trainer.api.labelling import Labelling
from services.trainer.api.operations import OperationsServicer
from services.trainer.api.prometheus import TrainerCollector, serve_metrics
from services.trainer.api.status import read_status
from services.trainer.database.database import Database
from services.trainer.database.leases import Leases
from services.trainer.database.migrate import migrate
from services.trainer.dataset.snapshot_retention import delete_snapshots_with
from services.trainer.dataset.taxonomy import KnownLabels
from services.trainer.errors import BrokenData, StorageFailed, TrainerError
from services.trainer.feedback.embedding_erasure import EmbeddingErasure
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.erasures import Erasures
from services.trainer.feedback.intake import Intake
from services.trainer.feedback.query_store import QueryStore
from services.trainer.feedback.review_queue import ReviewQueue
from services.trainer.feedback.store import FeedbackStore
from services.trainer.graphs.version import LearnedWords
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.experiment import Experiments
from services.trainer.rollout.query_collector import QueryCollector
from services.trainer.rollout.rehearsal import MEBIBYTE, RehearsalSetup, rehearse
from services.trainer.rollout.replica_erasure import erase_on_replicas
from services.trainer.runs.events import EventLog
from services.trainer.runs.plan import Plan
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore
from services.trainer.schedule.drift import measure_champion_drift
from services.trainer.schedule.due import DueCheck, DueRules, start_if_due
from services.trainer.schedule.scheduler import Scheduler
from services.trainer.settings import Settings
from services.trainer.upkeep.old_files import Folders, has_old_files
from services.transport.logs import configure_logs
from services.transport.serving import bind, build_server, start, until_signal
from services.transport.settings import BadSetting, address, load_settings
from services.transport.startup import exit_on_setup_errors

SERVICE_NAMES = (
    training.SERVICE_NAME,
    experiments_api.SERVICE_NAME,
    schedules.SERVICE_NAME,
    "google.longrunning.Operations",
)
FIRST_MODEL_AGAIN_SECONDS = 5.0
SECONDS_OF_A_DAY = 24 * 60 * 60
ERASE_AGAIN_SECONDS = 60
# While the database is away, each call to it occupies a thread for seconds. Other calls must still find one.
THREADS = 32

_log = structlog.get_logger()


def make_plan(settings: Settings) -> Plan:
    """Return what every run works on."""
    examples = settings.examples_dir
    return Plan(
        models_dir=str(settings.models_dir),
        model=settings.model,
        keep_versions=settings.keep_versions,
        seed_files=(str(examples / "train"),),
        held_out_file=str(examples / "held_out.jsonl"),
        golden_file=str(examples / "golden.jsonl"),
        taxonomy_file=str(settings.taxonomy_path or ""),
        models_url=settings.models_url,
        database_url=settings.database_location,
        encoder_dir=str(settings.encoder_path),
    )


def make_rehearsal(settings: Settings) -> RehearsalSetup:
    """Return how versions are rehearsed."""
    return RehearsalSetup(
        {
            "MOODFOOD_MODELS_DIR": str(settings.models_dir),
            "MOODFOOD_MODELS_URL": settings.models_url,
            "MOODFOOD_DATA_DIR": str(settings.data_dir),
            "MOODFOOD_MODEL": settings.model,
            "MOODFOOD_ENCODER_DIR": str(settings.encoder_path),
        },
        settings.rehearsal_memory_mib * MEBIBYTE,
    )


async def erase_again_and_again(erasure: Erasure, days: int) -> None:
    """Finish what is left of erasures and delete what is older than it may be kept, now and once a day.

    For 0 days, everything may be kept. What fails is tried again after a minute.
    """
    while True:
        pause = SECONDS_OF_A_DAY
        try:
            await erasure.finish()
            if days:
                await erasure.forget_older_than(days)
        except StorageFailed as error:
            _log.error("cannot delete what is too old", problem=str(error))
            pause = ERASE_AGAIN_SECONDS
        except Exception as error:
            _log.error("cannot delete what is too old", exc_info=error)
        await asyncio.sleep(pause)


async def log_end(work: Coroutine[Any, Any, None]) -> None:
    """Do some work in the background. When it fails, this is logged, and everything else goes on."""
    try:
        await work
    except Exception as error:
        _log.error("something in the background has ended and comes back at the next start", exc_info=error)


def find_label_files(settings: Settings) -> tuple[Path | None, tuple[Path, ...]]:
    """Return the taxonomy, if there is one, and the seed examples. Raises BrokenData when there are two taxonomies."""
    try:
        return settings.taxonomy_path, settings.seed_files
    except BadSetting as error:
        raise BrokenData(str(error)) from error


class Trainer:
    """The objects of the service, wired."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.database = Database(settings.database_location)
        self.registry = ModelRegistry(
            settings.models_dir, settings.model, settings.keep_versions, self.database, settings.models_url
        )
        leases = Leases(self.database)
        self.runs = RunStore(self.database)
        feedback = FeedbackStore(self.database)
        known_words = LearnedWords(self.registry).read
        self.queries = QueryStore(self.database, known_words, settings.keep_queries)
        rehearse_here = partial(rehearse, make_rehearsal(settings))
        self.champion = champion = Champion(self.registry, leases, settings.targets, rehearse_here)
        events = EventLog(settings.query_log_path, settings.retrain_log_path)
        self.runner = Runner(self.runs, leases, self.registry, champion, events, make_plan(settings))
        self.due = DueCheck(
            self.registry,
            feedback,
            self.runs,
            partial(measure_champion_drift, self.database, self.registry, self.queries),
            DueRules(settings.retrain_samples, settings.retrain_days, settings.retrain_on_drift),
        )
        queue = ReviewQueue(self.database, known_words)
        intake = Intake(feedback, self.queries, queue, KnownLabels(partial(find_label_files, settings)).now)
        self.erasure = Erasure(
            self.database,
            partial(delete_snapshots_with, self.registry.repository),
            EmbeddingErasure(Erasures(self.database), self.registry.embeddings_folder).catch_up,
            partial(erase_on_replicas, settings.targets),
        )
        self.collector = QueryCollector(settings.targets, self.queries, Erasures(self.database))
        self.experiments = Experiments(self.registry, champion, rehearse_here, self.queries, feedback)
        self.scheduler = Scheduler(self.database, leases, self.ask_by_schedule)
        self._training = training.Training(self.runner, self.runs, self.registry, champion, self.due)
        self._labelling = Labelling(intake, feedback, queue, self.erasure)

    async def ask_by_schedule(self, record_skip: bool) -> str:  # noqa: FBT001 - the scheduler's callback
        """Begin a run if one is due and say what came of it."""
        verdict, run = await start_if_due(self.runner, self.due, trainer_pb2.TRIGGER_SCHEDULED, record_skip=record_skip)
        return f"started run {run.run_id}" if run is not None and verdict.due else f"not due: {verdict.sentence}"

    def add_servicers(self, server: grpc.aio.Server) -> None:
        """Offer every service of the trainer on a server."""
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(
            training.TrainerServicer(self._training, self._labelling), server
        )
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(schedules.SchedulerServicer(self.scheduler), server)
        experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(
            experiments_api.ExperimentServicer(self.experiments), server
        )
        operations_grpc_pb2.add_OperationsServicer_to_server(OperationsServicer(self.runner, self.runs), server)

    def serve_metrics(self) -> Callable[[], None]:
        """Serve metrics over HTTP and return what ends that."""
        collector = TrainerCollector(partial(read_status, self.due), self.runs.count_ended)
        return serve_metrics(collector, self._settings.host, self._settings.metrics_port)

    async def recover(self) -> None:
        """Mend what a trainer before this one left behind."""
        try:
            await self.runner.recover()
        except TrainerError as error:
            _log.error("cannot mend what was found; see that the storage works, and start again", problem=str(error))

    async def train_first_model(self) -> None:
        """Begin the first run of an empty registry, unless another trainer on the database has begun it.

        While the storage is away, it is tried again. The trainer serves meanwhile.
        """
        while True:
            try:
                if await asyncio.to_thread(self.registry.alias.read) is None:
                    run = await self.runner.start(trainer_pb2.TRIGGER_FIRST_MODEL)
                    _log.info("the registry is empty: training the first model", run=run.run_id)
            except StorageFailed as error:
                _log.error("cannot see whether there is a model; this is tried again", problem=str(error))
            except TrainerError as error:
                _log.info("the first model is not trained here", problem=str(error))
                return
            else:
                return
            await asyncio.sleep(FIRST_MODEL_AGAIN_SECONDS)


async def serve(settings: Settings) -> None:
    """Serve until a signal comes."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    trainer = Trainer(settings)
    migrate(trainer.database)
    if has_old_files(Folders(settings.data_dir, settings.models_dir)):
        _log.warning("files of an earlier release are not in the database", command="moodfood migrate")
    server = build_server(ERROR_TABLE)
    trainer.add_servicers(server)
    port = bind(server, settings.host, settings.trainer_port, "MOODFOOD_TRAINER_PORT")
    await trainer.recover()
    stop = await start(server, SERVICE_NAMES)
    _log.info("trainer serving", address=address(settings.host, port))
    background = asyncio.gather(
        log_end(trainer.train_first_model()),
        log_end(erase_again_and_again(trainer.erasure, settings.retention_days)),
        log_end(trainer.erasure.follow()),
        log_end(trainer.collector.run()),
        log_end(trainer.experiments.watch()),
        log_end(trainer.champion.watch()),
        log_end(trainer.scheduler.follow()),
        log_end(trainer.runner.follow()),
    )
    stop_metrics = trainer.serve_metrics()

    signal_name = await until_signal()
    _log.info("trainer stopping", signal=signal_name)
    background.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await background
    stop_metrics()
    await trainer.runner.close()
    await stop()
    trainer.database.close()


def main() -> None:
    """Run the service."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    exit_on_setup_errors(main, BrokenData, StorageFailed)
