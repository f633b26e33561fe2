"""Measures the classification engine: training, accuracy of each stage, calibration, time, size.

Single queries are timed against scikit-learn's own pipeline with the same n-grams and against skl2onnx's stock export.
Limits are ratios to those, measured in the same run, because absolute times mean little on a shared machine.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.baselines import export_with_skl2onnx, fit_scikit_learn
from benchmarks.timing import Timing, measure_median_millis, time_in_turn
from services.language.encoder import load_encoder
from services.language.names import LINEAR_FILE
from services.language.session import open_session
from services.language.text import normalise
from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.dataset.examples import Example
from services.trainer.evaluation.metrics import Evaluation, bin_confidences, rank_labels
from services.trainer.fitting.thresholds import Thresholds, margins
from services.trainer.graphs.cascade import Cascade
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.version import open_serving_model
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.measure import measure

ROOT = Path(__file__).resolve().parent.parent
ENCODER = ROOT / "models" / "encoder" / "all-minilm-l6-v2"
MODEL = "benchmark"
TIMED_QUERIES = 500
LOADS = 15
OVER_SCIKIT_LEARN = 20.0
# The stock export multiplies with every word that it knows, so its time grows with the vocabulary.
OVER_STOCK_EXPORT, OVER_STOCK_EXPORT_FROM_EXAMPLES = 8.0, 10_000
LINEAR, TRANSFORMER, CASCADE = "linear stage alone", "transformer stage for all", "cascade"
# Runs `moodfood train` as a child, so that the peak of its memory can be told from that of this process.
RUN_AND_MEASURE = (
    "import json, resource, subprocess, sys\n"
    "ended = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)\n"
    "print(json.loads(ended.stdout)['seconds'], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    "sys.exit(ended.returncode)\n"
)


@dataclass(frozen=True)
class Training:
    """One run of `moodfood train`: its wall time and its peak memory."""

    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Speed:
    """Times of single queries by what answered them, and of opening the linear graph.

    Attributes:
        linear, transformer: one stage of ours; the transformer stage without the linear one before it.
        scikit_learn, stock_export: what we are compared with.
        least_over_stock_export: the limit for `over_stock_export`.

    """

    linear: Timing
    transformer: Timing
    scikit_learn: Timing
    stock_export: Timing
    graph_bytes: int
    load_millis: float
    least_over_stock_export: float

    @property
    def over_scikit_learn(self) -> float:
        """Median time of scikit-learn's pipeline over that of the linear graph."""
        return self.scikit_learn.p50 / self.linear.p50

    @property
    def over_stock_export(self) -> float:
        """Median time of the stock export over that of the linear graph."""
        return self.stock_export.p50 / self.linear.p50

    @property
    def within_limits(self) -> bool:
        """Whether both ratios are large enough."""
        return self.over_scikit_learn >= OVER_SCIKIT_LEARN and self.over_stock_export >= self.least_over_stock_export


@dataclass(frozen=True)
class Reliability:
    """Mean confidence, share of right answers and size of each bin of confidence that has examples, all [n_bins]."""

    confidences: np.ndarray
    right: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class EscalationCurve:
    """Share of the queries that are escalated, smallest margin first, and the accuracy, both [n + 1]."""

    shares: np.ndarray
    accuracies: np.ndarray


@dataclass(frozen=True)
class Measurements:
    """All that is shown of one version."""

    evaluations: dict[str, Evaluation]
    speed: Speed
    reliability: Reliability
    escalation: EscalationCurve

    @property
    def mean_micros(self) -> dict[str, float]:
        """Mean time of a query by stage, the keys of `evaluations`."""
        linear, transformer = self.speed.linear.mean, self.speed.transformer.mean
        share = self.evaluations[CASCADE].escalated
        return {LINEAR: linear, TRANSFORMER: linear + transformer, CASCADE: linear + share * transformer}


def train_three_times(examples: Sequence[Path], models: Path, taxonomy: Path | None) -> dict[str, Training]:
    """Train the linear stage alone; both stages; and both again with the embeddings stored. Version 1 is the second."""
    options = ("--taxonomy", str(taxonomy)) if taxonomy else ()
    with_encoder = ("--encoder", str(ENCODER), *options)
    return {
        "linear stage only": train(examples, models / "linear", "--no-encoder", *options),
        "with the transformer stage, cold": train(examples, models, *with_encoder),
        "with the transformer stage, embeddings warm": train(examples, models, *with_encoder),
    }


def train(examples: Sequence[Path], models: Path, *options: str) -> Training:
    """Run `moodfood train` in a process of its own.

    The seconds are those that it reports, from files to a registered version, without the start of Python and the
    rehearsal. The peak is that of the whole command.
    """
    files = [argument for path in examples for argument in ("--examples", str(path))]
    place = ["--models", str(models), "--model", MODEL, "--json"]
    command = [sys.executable, "-m", "services.cli", "train", *files, *place, *options]
    ended = subprocess.run(
        [sys.executable, "-c", RUN_AND_MEASURE, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, kilobytes = ended.stdout.split()
    return Training(float(seconds), int(kilobytes) / 1024)


def measure_version(models: Path, train_set: Sequence[Example], test: Sequence[Example]) -> Measurements:
    """Measure version 1 on the test examples; the train set is what the baselines are fitted to."""
    # `moodfood train` has put the database of these models beside them.
    database = Database(file_url(models / DATABASE_FILE))
    registry, encoder = ModelRegistry(models, MODEL, 10, database), load_encoder(ENCODER)
    if encoder is None:
        sys.exit(f"there is no encoder in {ENCODER}; make encoder builds it")
    cascade, size = open_serving_model(registry, 1, EmbeddingStore(encoder, models / "test"))
    scoped = [example for example in test if example.labels]
    texts = [normalise(example.text) for example in scoped[:: max(1, len(scoped) // TIMED_QUERIES)]]
    labelled = [example for example in train_set if example.labels]
    embed, scores = encoder.embed_one, np.zeros((1, len(cascade.labels)), dtype=np.float32)

    def ask_transformer(text: str) -> np.ndarray:
        return cascade.run_head(np.hstack([embed(text), scores]))

    return Measurements(
        evaluations=evaluate_stages(cascade, test, size),
        speed=measure_speed(registry.versions.file(1, LINEAR_FILE), ask_transformer, labelled, texts),
        reliability=measure_reliability(cascade, scoped),
        escalation=measure_escalation(cascade, scoped),
    )


def measure_speed(
    graph: bytes, ask_transformer: Callable[[str], object], labelled: Sequence[Example], texts: Sequence[str]
) -> Speed:
    """Time single queries in turn: both stages, scikit-learn's pipeline and skl2onnx's stock export."""
    pipeline = fit_scikit_learn(labelled)
    linear, transformer, scikit_learn, stock_export = time_in_turn(
        [
            _run_graph(open_session(graph)),
            ask_transformer,
            lambda text: pipeline.decision_function([text]),
            _run_graph(open_session(export_with_skl2onnx(labelled))),
        ],
        texts,
    )
    return Speed(
        linear,
        transformer,
        scikit_learn,
        stock_export,
        graph_bytes=len(graph),
        load_millis=measure_median_millis(lambda: open_session(graph), LOADS),
        least_over_stock_export=OVER_STOCK_EXPORT if len(labelled) >= OVER_STOCK_EXPORT_FROM_EXAMPLES else 1.0,
    )


def _run_graph(graph: onnxruntime.InferenceSession) -> Callable[[str], object]:
    """Return what asks a graph for all of its outputs, for one normalised text."""
    name = graph.get_inputs()[0].name
    return lambda text: graph.run(None, {name: np.array([[text]], dtype=object)})


def evaluate_stages(cascade: Cascade, test: Sequence[Example], size: int) -> dict[str, Evaluation]:
    """Evaluate each stage by itself and the cascade."""
    chosen = cascade.thresholds
    escalate_all = Thresholds(chosen.alone, np.inf, np.inf, chosen.transformer)
    return {
        LINEAR: measure(cascade.without_head(), test, size),
        TRANSFORMER: measure(cascade.with_thresholds(escalate_all), test, size),
        CASCADE: measure(cascade, test, size),
    }


def measure_reliability(cascade: Cascade, scoped: Sequence[Example]) -> Reliability:
    """Measure how often the cascade is right at which confidence; the examples have labels."""
    answers = cascade.answer([example.text for example in scoped])
    ranked = rank_labels(answers.probabilities, cascade.labels)
    right = np.array(
        [(best[0] in example.labels) / len(example.labels) for best, example in zip(ranked, scoped, strict=True)]
    )
    bins = bin_confidences(answers.confidences)
    masks = [bins == number for number in np.unique(bins)]
    return Reliability(
        np.array([answers.confidences[mask].mean() for mask in masks]),
        np.array([right[mask].mean() for mask in masks]),
        np.array([mask.sum() for mask in masks]),
    )


def measure_escalation(cascade: Cascade, scoped: Sequence[Example]) -> EscalationCurve:
    """Measure the accuracy for margins from never to always escalated; the examples have labels."""
    texts = [example.text for example in scoped]
    probabilities, scores = cascade.ask_linear(texts)
    right, transformer_right = (
        np.array([cascade.labels[best] in example.labels for best, example in zip(column, scoped, strict=True)])
        for column in (probabilities.argmax(axis=1), cascade.ask_transformer(texts, scores).argmax(axis=1))
    )
    order = np.argsort(margins(scores), kind="stable")
    gained = np.concatenate([[0], np.cumsum(transformer_right[order].astype(int) - right[order].astype(int))])
    return EscalationCurve(np.arange(len(scoped) + 1) / len(scoped), (right.sum() + gained) / len(scoped))
