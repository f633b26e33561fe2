"""Starts the trainer: the only place that reads its environment and wires its objects."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path

import structlog
import uvloop
from google.longrunning import operations_grpc_pb2
from moodfood.trainer.v1 import experiments_pb2_grpc, scheduler_pb2_grpc, trainer_pb2, trainer_pb2_grpc
from pydantic import ValidationError

from services.trainer.api import experiments as experiment_servicer
from services.trainer.api import schedules as scheduler_servicer
from services.trainer.api.experiments import ExperimentServicer
from services.trainer.api.labelling import Labelling
from services.trainer.api.operations import OperationsServicer
from services.trainer.api.prometheus import TrainerCollector, serve_metrics
from services.trainer.api.schedules import SchedulerServicer
from services.trainer.api.status import ERROR_TABLE
from services.trainer.api.training import SERVICE_NAME, TrainerServicer
from services.trainer.dataset.taxonomy import load_taxonomy_labels
from services.trainer.errors import BrokenData, RetrainInProgress, StorageFailed
from services.trainer.feedback.erasure import Erasure
from services.trainer.feedback.intake import Intake
from services.trainer.feedback.query_log import QueryHistory
from services.trainer.feedback.review_queue import SUSPECTS_FILE, ReviewQueue
from services.trainer.feedback.store import FeedbackStore
from services.trainer.graphs.version import read_learned_words
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.experiment import Experiments
from services.trainer.rollout.rehearsal import MEBIBYTE, Stage, rehearse
from services.trainer.rollout.rehearsals import Rehearsals
from services.trainer.runs.events import EventLog
from services.trainer.runs.plan import Plan
from services.trainer.runs.runner import Retrainer
from services.trainer.runs.store import RunStore
from services.trainer.schedule.automation import Automation
from services.trainer.schedule.drift_monitor import DriftMonitor
from services.trainer.schedule.scheduler import Scheduler
from services.trainer.schedule.status import RetrainingStatus
from services.trainer.settings import Settings
from services.transport.logs import configure_logs
from services.transport.serving import bind, build_server, exit_on_setup_errors, start, until_signal

SERVICE_NAMES = (
    SERVICE_NAME,
    experiment_servicer.SERVICE_NAME,
    scheduler_servicer.SERVICE_NAME,
    "google.longrunning.Operations",
)
SECONDS_OF_A_DAY = 24 * 60 * 60

_log = structlog.get_logger()


def plan_for(settings: Settings, run_id: str, snapshot_id: str) -> Plan:
    """Return what a run works on."""
    examples = settings.examples_dir
    return Plan(
        models_dir=str(settings.models_dir),
        model=settings.model,
        keep_versions=settings.keep_versions,
        seed_files=tuple(str(path) for path in sorted((examples / "train").glob("*.jsonl"))),
        held_out_file=_if_there(examples / "held_out.jsonl"),
        golden_file=_if_there(examples / "golden.jsonl"),
        taxonomy_file=str(settings.taxonomy_path),
        feedback_file=str(settings.feedback_path),
        encoder_dir=str(settings.encoder_path),
        suspects_file=str(settings.review_dir / SUSPECTS_FILE),
        snapshot_id=snapshot_id,
        run_id=run_id,
    )


def rehearsal_stage(settings: Settings) -> Stage:
    """Return where versions are rehearsed."""
    return Stage(
        {
            "MOODFOOD_MODELS_DIR": str(settings.models_dir),
            "MOODFOOD_DATA_DIR": str(settings.data_dir),
            "MOODFOOD_MODEL": settings.model,
            "MOODFOOD_ENCODER_DIR": str(settings.encoder_path),
        },
        settings.rehearsal_memory_mib * MEBIBYTE,
    )


def _if_there(path: Path) -> str:
    return str(path) if path.is_file() else ""


async def delete_what_is_too_old(erasure: Erasure, days: int) -> None:
    """Delete now and once a day what is older than it may be kept; never for 0 days."""
    while days > 0:
        try:
            await asyncio.to_thread(erasure.forget_older_than, days)
        except StorageFailed as error:
            _log.error("cannot delete what is too old", problem=str(error))
        await asyncio.sleep(SECONDS_OF_A_DAY)


async def serve(settings: Settings) -> None:
    """Serve until a signal comes."""
    registry = ModelRegistry(settings.models_dir, settings.model, settings.keep_versions)
    store = RunStore(settings.runs_dir)
    feedback = FeedbackStore(settings.feedback_path)
    champion = Champion(registry, settings.targets)
    rehearsals = Rehearsals(registry, partial(rehearse, rehearsal_stage(settings)))
    retrainer = Retrainer(
        store,
        registry,
        champion,
        EventLog(settings.query_log_path, settings.retrain_log_path),
        partial(plan_for, settings),
        settings.runs_dir / ".lock",
        rehearsals,
    )
    history = QueryHistory(settings.query_log_path)
    queue = ReviewQueue(settings.review_dir, history, feedback, partial(read_learned_words, registry))
    intake = Intake(feedback, history, queue, load_taxonomy_labels(settings.taxonomy_path).names)
    erasure = Erasure(feedback, settings.query_log_path, registry.snapshots_folder, history)
    drift = DriftMonitor(settings.drift_dir, registry, history)
    status = RetrainingStatus(registry, feedback, store, settings.retrain_samples, settings.retrain_days, drift)
    automation = Automation(retrainer, status, store, on_drift=settings.retrain_on_drift)
    experiments = Experiments(registry, champion, history, feedback)
    scheduler = Scheduler(settings.schedule_path, automation.ask)

    server = build_server(ERROR_TABLE)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(
        TrainerServicer(
            retrainer, store, registry, champion, status, rehearsals, Labelling(intake, feedback, queue, erasure)
        ),
        server,
    )
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(scheduler), server)
    experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentServicer(experiments, rehearsals), server)
    operations_grpc_pb2.add_OperationsServicer_to_server(OperationsServicer(retrainer, store), server)
    port = bind(server, settings.host, settings.trainer_port, "MOODFOOD_TRAINER_PORT")
    try:
        await retrainer.recover()
    except StorageFailed as error:
        _log.error("cannot mend what was found; free the disk and start again", problem=str(error))
    background = asyncio.gather(delete_what_is_too_old(erasure, settings.retention_days), experiments.watch())
    stop = await start(server, SERVICE_NAMES)
    _log.info("trainer serving", address=f"{settings.host}:{port}")
    if registry.champion() is None:
        # Another trainer on the store may have begun it.
        with contextlib.suppress(RetrainInProgress):
            run = await retrainer.start(trainer_pb2.TRIGGER_FIRST_MODEL)
            _log.info("the registry is empty: training the first model", run=run.run_id)

    scheduler.begin()
    stop_metrics = serve_metrics(TrainerCollector(status.now, store.newest_first), settings.host, settings.metrics_port)

    signal_name = await until_signal()
    _log.info("trainer stopping", signal=signal_name)
    background.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await background
    scheduler.end()
    stop_metrics()
    await retrainer.close()
    await stop()


def main() -> None:
    """Run the service."""
    settings = Settings()
    configure_logs(settings.log_level)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    exit_on_setup_errors(main, BrokenData, StorageFailed, ValidationError, ValueError)
