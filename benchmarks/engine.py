"""Measure the classification engine on any examples: accuracy, calibration, abstention, escalation, time, size, memory.

Trains by the command line in processes of their own (linear only; with the transformer stage from cold; again with a
warm embedding store), evaluates on the test files, and times single queries in turn, in one run, against scikit-learn's
own pipeline with the same n-grams and against skl2onnx's stock export of it. Writes docs/benchmarks/NAME.md and
NAME.png, and ends with 1 when a ratio is missed. For CLINC150 as JSON lines:

    make bench ARGS="--name clinc150 --examples train.jsonl --test test.jsonl oos_test.jsonl"
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC

from benchmarks.published import PUBLISHED
from services.language.encoder import Encoder, load_encoder
from services.language.session import open_session
from services.language.text import normalise
from services.trainer.dataset.examples import Example
from services.trainer.dataset.files import read_examples
from services.trainer.evaluation.metrics import CONFIDENCE_BINS, Evaluation, best_labels, evaluate, shares_right
from services.trainer.fitting.ngrams import CHARACTER_GRAMS, WORD_GRAMS, WORD_PATTERN
from services.trainer.fitting.thresholds import Thresholds, margins
from services.trainer.graphs.cascade import CascadeScorer
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.version import LINEAR_FILE, open_version
from services.trainer.registry.registry import ModelRegistry

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
ENCODER = ROOT / "models" / "encoder" / "all-minilm-l6-v2"
REPORTS = ROOT / "docs" / "benchmarks"
MODEL = "benchmark"
TIMED_QUERIES = 500
LOADS = 15
BLOCK, WARM_UP = 50, 10
OVER_SCIKIT_LEARN = 20.0
# The stock export multiplies with every word it knows, so what it costs grows with the vocabulary.
OVER_STOCK_EXPORT, OVER_STOCK_EXPORT_FROM_EXAMPLES = 8.0, 10_000


@dataclass(frozen=True)
class Training:
    """One run of `moodfood train`: its wall time and the most memory it held."""

    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Timing:
    """Sorted times of single queries in microseconds."""

    micros: Sequence[float]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.micros)

    @property
    def p99(self) -> float:
        """The 99th percentile."""
        return self.micros[int(len(self.micros) * 0.99)]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.micros)


def train(examples: Sequence[Path], models: Path, *options: str) -> Training:
    """Train in a process of its own; the seconds are those it reports, from files to a registered version.

    Neither the start of Python nor the rehearsal is in them; the peak is that of the whole command.
    """
    code = (
        "import json, resource, subprocess, sys\n"
        "ended = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)\n"
        "print(json.loads(ended.stdout)['seconds'], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(ended.returncode)\n"
    )
    files = [argument for path in examples for argument in ("--examples", str(path))]
    command = [
        sys.executable,
        "-m",
        "services.cli",
        "train",
        *files,
        "--models",
        str(models),
        "--model",
        MODEL,
        "--json",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", code, *command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, kilobytes = ended.stdout.split()
    return Training(float(seconds), int(kilobytes) / 1024)


def timed(calls: Sequence[Callable[[str], object]], texts: Sequence[str]) -> list[Timing]:
    """Ask every call some texts in turn, then some more, and return the times of each.

    A call keeps its turn for BLOCK texts, after a warm-up, so that it is measured with its own data in
    the processor's caches, as in a service, and still shares every slow minute of the machine with the others.
    """
    times: list[list[float]] = [[] for _ in calls]
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        for call, taken in zip(calls, times, strict=True):
            for text in block[:WARM_UP]:
                call(text)
            for text in block:
                began = time.perf_counter()
                call(text)
                taken.append((time.perf_counter() - began) * 1e6)
    return [Timing(sorted(taken)) for taken in times]


def graph_call(graph: onnxruntime.InferenceSession) -> Callable[[str], object]:
    """Return what asks a graph for everything it gives, for one normalised text."""
    name = graph.get_inputs()[0].name
    return lambda text: graph.run(None, {name: np.array([[text]], dtype=object)})


def scikit_learn_pipeline(examples: Sequence[Example]) -> Pipeline:
    """Return scikit-learn's own pipeline over the same n-grams, fitted."""
    vectorizers = FeatureUnion(
        [
            ("words", TfidfVectorizer(lowercase=False, token_pattern=WORD_PATTERN, ngram_range=WORD_GRAMS)),
            ("characters", TfidfVectorizer(lowercase=False, analyzer="char", ngram_range=CHARACTER_GRAMS, min_df=2)),
        ]
    )
    pipeline = Pipeline([("features", vectorizers), ("linear", LinearSVC())])
    return pipeline.fit([normalise(each.text) for each in examples], [each.labels[0] for each in examples])


def stock_export(examples: Sequence[Example]) -> bytes:
    """Return skl2onnx's own export of the word n-grams, as far as it can: it writes one dense row for each text.

    It has no way to export LinearSVC any more, so the weights travel as those of a logistic regression.
    """
    words = TfidfVectorizer(lowercase=False, token_pattern=WORD_PATTERN, ngram_range=WORD_GRAMS)
    features = words.fit_transform([normalise(each.text) for each in examples])
    fitted = LinearSVC().fit(features, [each.labels[0] for each in examples])
    linear = LogisticRegression()
    linear.coef_, linear.intercept_, linear.classes_ = fitted.coef_, fitted.intercept_, fitted.classes_
    pipeline = Pipeline([("tfidf", words), ("linear", linear)])
    types = [("text", StringTensorType([None, 1]))]
    graph = to_onnx(pipeline, initial_types=types, options={id(linear): {"zipmap": False}}, target_opset=18)
    return bytes(graph.SerializeToString())


def compare_graphs(
    model: bytes, encoder: Encoder, scorer: CascadeScorer, train_set: Sequence[Example], texts: Sequence[str]
) -> dict[str, Timing]:
    """Time single queries, in turn: our graph, the transformer stage, scikit-learn, and skl2onnx's stock export."""
    pipeline = scikit_learn_pipeline(train_set)
    columns = len(scorer.labels)
    scores = np.zeros((1, columns), dtype=np.float32)
    head = scorer.head_call()
    linear, transformer, sklearn, stock = timed(
        [
            graph_call(open_session(model)),
            lambda text: head(np.hstack([encoder.embed_one(text), scores])),
            lambda text: pipeline.decision_function([text]),
            graph_call(open_session(stock_export(train_set))),
        ],
        texts,
    )
    return {
        "linear graph, `session.run`": linear,
        "transformer stage: tokenise, encode, head": transformer,
        "scikit-learn pipeline, same n-grams": sklearn,
        "skl2onnx stock export, words only": stock,
    }


def load_millis(graph: bytes) -> float:
    """Return the median time to open a graph, in milliseconds."""
    times = []
    for _ in range(LOADS):
        began = time.perf_counter()
        open_session(graph)
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def evaluations(scorer: CascadeScorer, test: Sequence[Example], size: int) -> dict[str, Evaluation]:
    """Evaluate each stage by itself and the cascade."""
    alone = scorer.thresholds
    everything = Thresholds(alone.alone, np.inf, np.inf, alone.transformer)
    return {
        "linear stage alone": evaluate(scorer.without_head(), test, size),
        "transformer stage for all": evaluate(scorer.with_thresholds(everything), test, size),
        "cascade": evaluate(scorer, test, size),
    }


def reliability(scorer: CascadeScorer, test: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each bin of the cascade's confidence that holds examples: mean confidence, share right, size."""
    answers = scorer.answers([each.text for each in test])
    right = shares_right(best_labels(answers.probabilities, scorer.labels), test)
    bins = np.minimum((answers.confidences * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    rows = [
        (answers.confidences[bins == each].mean(), right[bins == each].mean(), (bins == each).sum())
        for each in np.unique(bins)
    ]
    confidence, share, size = np.array(rows).T
    return confidence, share, size


def escalation(scorer: CascadeScorer, test: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Return share escalated and accuracy on the test set, for margins from never to always."""
    texts = [each.text for each in test]
    probabilities, scores = scorer.linear(texts)
    above = scorer.head(texts, scores)
    right, right_above = (
        np.array([scorer.labels[i] in each.labels for i, each in zip(p.argmax(axis=1), test, strict=True)])
        for p in (probabilities, above)
    )
    order = np.argsort(margins(scores), kind="stable")
    mended = np.concatenate([[0], np.cumsum(right_above[order].astype(int) - right[order].astype(int))])
    return np.arange(len(test) + 1) / len(test), (right.sum() + mended) / len(test)


def plot(
    path: Path,
    name: str,
    results: dict[str, Evaluation],
    mean_micros: dict[str, float],
    bins: tuple[np.ndarray, np.ndarray, np.ndarray],
    curve: tuple[np.ndarray, np.ndarray],
) -> None:
    """Draw accuracy against mean time with the published systems, the reliability diagram and the escalation curve."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5), constrained_layout=True)
    for stage, evaluation in results.items():
        left.scatter(mean_micros[stage], evaluation.accuracy, s=70, zorder=3)
        left.annotate(stage, (mean_micros[stage], evaluation.accuracy), textcoords="offset points", xytext=(8, -12))
    for system, accuracy in PUBLISHED.get(name, {}).items():
        left.axhline(accuracy, color="gray", linewidth=0.8, linestyle="--")
        left.annotate(f"{system} {accuracy:.3f}", (1.0, accuracy), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", fontsize=8, color="gray")  # fmt: skip
    left.set(xscale="log", xlabel="mean time of a query, µs, one thread", ylabel="top-1 accuracy",
             title=f"{name}: accuracy against time", xlim=(20, 20_000))  # fmt: skip
    confidence, share, size = bins
    middle.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    middle.scatter(confidence, share, s=20 + 300 * size / size.sum(), alpha=0.7)
    middle.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1),
               title=f"cascade: reliability, ECE {results['cascade'].calibration_error:.3f}")  # fmt: skip
    shares, accuracies = curve
    right.plot(shares, accuracies)
    chosen = results["cascade"]
    right.scatter(chosen.escalated, chosen.accuracy, zorder=3)
    right.annotate("chosen out of fold", (chosen.escalated, chosen.accuracy), textcoords="offset points",
                   xytext=(8, -14))  # fmt: skip
    right.set(xlabel="share escalated, smallest margins first", ylabel="top-1 accuracy", title="cascade: escalation")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def machine() -> str:
    """Return processor and cores, as this machine names them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    cells = [[f"{cell:,.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in ([*columns], ["---"] * len(columns), *cells)]
    return "\n".join(lines)


def report(
    name: str,
    train_set: Sequence[Example],
    test: Sequence[Example],
    results: dict[str, Evaluation],
    mean_micros: dict[str, float],
    timings: dict[str, Timing],
    trainings: dict[str, Training],
    facts: dict[str, str],
) -> str:
    """Return the page."""
    outside = sum(not each.labels for each in test)
    labels = len({label for each in train_set for label in each.labels})
    accuracy = table(
        ("", "top-1", "macro-F1", "recall@3", "ECE", "escalated", "out-of-scope recall at 95 % coverage", "mean µs"),
        [
            (stage, each.accuracy, each.macro_f1, each.recall_at_3, each.calibration_error, each.escalated,
             each.out_of_scope_recall_at_95 if outside else "-", f"{mean_micros[stage]:,.0f}")
            for stage, each in results.items()
        ],
    )  # fmt: skip
    times = table(
        ("one query, one thread", "p50 µs", "p99 µs", "mean µs"),
        [(what, f"{each.p50:,.0f}", f"{each.p99:,.0f}", f"{each.mean:,.0f}") for what, each in timings.items()],
    )
    training = table(
        ("`moodfood train`, files to registered version", "seconds", "peak MB"),
        [(what, f"{each.seconds:.1f}", f"{each.peak_mb:,.0f}") for what, each in trainings.items()],
    )
    return (
        "\n\n".join(
            [
                f"# {name}",
                f"{len(train_set):,} examples of {labels} labels, {len(test) - outside:,} test queries and {outside:,} "
                f"out-of-scope ones. Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}, ONNX Runtime "
                f"{onnxruntime.__version__}. Repeat with `make bench` (see benchmarks/engine.py).",
                f"![accuracy against time, reliability, escalation]({name}.png)",
                accuracy,
                times,
                table(("", ""), list(facts.items())),
                training,
            ]
        )
        + "\n"
    )


def main() -> None:
    """Measure, write the page and the plot, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = ROOT / "data" / "examples"
    parser.add_argument("--name", default="mood_food", help="of the page in docs/benchmarks")
    parser.add_argument("--examples", type=Path, nargs="+", default=[shipped / "train" / "mood_food.jsonl"])
    parser.add_argument("--test", type=Path, nargs="+", default=[shipped / "held_out.jsonl"])
    parser.add_argument("--taxonomy", type=Path, help="labels that exist; their descriptors are learned too")
    asked = parser.parse_args()
    of_taxonomy = ("--taxonomy", str(asked.taxonomy)) if asked.taxonomy else ()
    (train_set, _), (test, _) = read_examples(asked.examples), read_examples(asked.test)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        trainings = {
            "linear stage only": train(asked.examples, models / "linear", "--no-encoder", *of_taxonomy),
            "with the transformer stage, cold": train(asked.examples, models, "--encoder", str(ENCODER), *of_taxonomy),
            "with the transformer stage, embeddings warm": train(
                asked.examples, models, "--encoder", str(ENCODER), *of_taxonomy
            ),
        }
        registry = ModelRegistry(models, MODEL, 10)
        encoder = load_encoder(ENCODER)
        assert encoder is not None, f"there is no encoder in {ENCODER}; make encoder builds it"
        store = EmbeddingStore(encoder, models / "test")
        scorer, size = open_version(registry, 1, store, judged=False)
        model = registry.file(1, LINEAR_FILE)
        results = evaluations(scorer, test, size)
        scoped = [each for each in test if each.labels]
        texts = [normalise(each.text) for each in scoped[:: max(1, len(scoped) // TIMED_QUERIES)]]
        labelled = [each for each in train_set if each.labels]
        timings = compare_graphs(model, encoder, scorer, labelled, texts)
        linear, transformer, sklearn, stock = timings.values()
        share = results["cascade"].escalated
        mean_micros = {
            "linear stage alone": linear.mean,
            "transformer stage for all": linear.mean + transformer.mean,
            "cascade": linear.mean + share * transformer.mean,
        }
        over_sklearn, over_stock = sklearn.p50 / linear.p50, stock.p50 / linear.p50
        least_over_stock = OVER_STOCK_EXPORT if len(labelled) >= OVER_STOCK_EXPORT_FROM_EXAMPLES else 1.0
        facts = {
            "scikit-learn's time over the graph's, p50": f"{over_sklearn:.1f} (at least {OVER_SCIKIT_LEARN:g})",
            "skl2onnx stock export's time over the graph's, p50": f"{over_stock:.1f} (at least {least_over_stock:g})",
            "linear graph, MB": f"{len(model) / 1e6:.1f}",
            "linear graph, load ms": f"{load_millis(model):.0f}",
        }
        REPORTS.mkdir(parents=True, exist_ok=True)
        page = report(asked.name, train_set, test, results, mean_micros, timings, trainings, facts)
        (REPORTS / f"{asked.name}.md").write_text(page)
        bins, curve = reliability(scorer, scoped), escalation(scorer, scoped)
        plot(REPORTS / f"{asked.name}.png", asked.name, results, mean_micros, bins, curve)
    print(page)
    sys.exit(0 if over_sklearn >= OVER_SCIKIT_LEARN and over_stock >= least_over_stock else 1)


if __name__ == "__main__":
    main()
