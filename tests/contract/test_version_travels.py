"""What the trainer writes, inference loads; scikit-learn and ONNX agree on any text."""

import os
import subprocess
import sys
from copy import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.inference.classifiers.cascade import Stage, StageKind, answer
from services.inference.classifiers.keywords import KeywordClassifier
from services.inference.models.loader import Loader
from services.inference.models.registry import RegistryReader
from services.language.encoder import load_encoder
from services.language.text import normalise
from services.repository.opening import open_repository
from services.trainer.dataset.files import read_examples
from services.trainer.fitting.fit import FittedModel, fit
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.export import Graphs, export_graphs
from services.trainer.graphs.parity import TIE_MARGIN, TOLERANCE
from services.trainer.graphs.version import open_serving_model
from tests.conftest import ENCODER
from tests.registries import MODEL, open_registry


@pytest.fixture(scope="module")
def fitted(small_data: Path, trained_models: Path) -> FittedModel:
    examples, _ = read_examples([small_data / "examples" / "train" / "mood_food.jsonl"])
    encoder = load_encoder(ENCODER)
    assert encoder is not None
    store = EmbeddingStore(encoder, open_registry(trained_models).embeddings_folder)
    return fit(examples, [False] * len(examples), store).serving


@pytest.fixture(scope="module")
def graphs(fitted: FittedModel) -> Graphs:
    return export_graphs(fitted)


@pytest.fixture(scope="module")
def linear(graphs: Graphs) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graphs.linear)


def asked(session: onnxruntime.InferenceSession, texts: list[str]) -> np.ndarray:
    """Return the graph's probabilities for normalised texts, as one batch."""
    column = np.array([[text] for text in texts], dtype=object)
    return np.asarray(session.run(["probabilities"], {"text": column})[0])


WORDS = (
    "rainy", "day", "soup", "i", "want", "pizza", "chocolate", "so", "sad", "hot", "spicy", "comfort", "breakfast",
    "🌶", "चाय", "ß", "e\u0301", "شوكولاتة", "12", "3½",
)  # fmt: skip
FRIENDLY = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
# Pieces of known words, so that n-grams inside the vocabulary begin and end anywhere.
PIECES = st.lists(st.sampled_from(WORDS).flatmap(lambda word: st.sampled_from([word[:3], word[1:], word])), max_size=8)
ANY_TEXT = st.one_of(
    st.text(), FRIENDLY, PIECES.map("".join), st.text(alphabet="ab \t\n\0\u00a0’'e\u0301\u202e🏽", max_size=40)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=5))
@example([""])
@example(["   ", "\t\n", "\0"])
@example(["x" * 10_000, "soup " * 2_000, "🍜" * 10_000])
@example(["a", "soup", "so", "s", "hot hot hot"])
@example(["e\u0301te\u0301 \u202eabc", "مرحبا شوربة", "１２３ ① ½", "👩‍👩‍👧‍👦", "\ud7ff\ue000\U0010ffff"])
def test_scikit_learn_and_onnx_answer_alike_on_any_text(
    fitted: FittedModel, linear: onnxruntime.InferenceSession, texts: list[str]
) -> None:
    normalised = [normalise(text) for text in texts]
    expected, exported = fitted.linear.predict_proba(normalised), asked(linear, normalised)
    assert np.isfinite(exported).all()
    assert np.abs(expected - exported).max() <= TOLERANCE
    best = exported.argmax(axis=1)
    assert (expected.max(axis=1) - expected[np.arange(len(texts)), best] <= TIE_MARGIN).all()


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_TEXT.map(normalise), min_size=2, max_size=8))
@example(["a", "soup and more soup than anybody wants", ""])
def test_batch_answers_exactly_as_single_texts(linear: onnxruntime.InferenceSession, texts: list[str]) -> None:
    singles = np.concatenate([asked(linear, [text]) for text in texts])
    assert (asked(linear, texts) == singles).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_head_answers_as_scikit_learn_does(fitted: FittedModel, graphs: Graphs, seed: int) -> None:
    assert fitted.head is not None
    columns = fitted.head.weights_.shape[0]
    features = np.random.default_rng(seed).normal(size=(4, columns + len(fitted.labels))).astype(np.float32)
    features[:, :columns] /= 20
    session = onnxruntime.InferenceSession(graphs.head)
    exported = session.run(["probabilities"], {"features": features})[0]
    assert np.abs(fitted.head.predict_proba(features) - exported).max() <= TOLERANCE


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.weights_.__setitem__((0, 0), model.weights_[0, 0] ^ 64),
        lambda model: model.scales_.__setitem__(slice(None), model.scales_ + 1),
        lambda model: model.squares_.__setitem__(slice(None), model.squares_ * 2),
        lambda model: setattr(model, "words_", (model.words_[1], model.words_[0], *model.words_[2:])),
        lambda model: setattr(model, "inverse_temperature_", model.inverse_temperature_ * 1.01),
    ],
    ids=["one weight", "scales", "norms", "two words swapped", "inverse temperature"],
)
def test_parity_notices_an_export_of_another_model(small_data: Path, damage) -> None:  # type: ignore[no-untyped-def]
    """The comparison above has the power to fail: any part of the model that differs shows on known words."""
    examples, _ = read_examples([small_data / "examples" / "train" / "mood_food.jsonl"])
    texts = [normalise(each.text) for each in examples]
    label_matrix = np.array([[label in each.labels for label in ("flavor_spicy", "emotion_sad")] for each in examples])
    model = LinearClassifier().fit(texts, label_matrix).calibrate(3.0)
    expected = model.predict_proba([*texts, *model.words_])
    damage(model)
    served = FittedModel(model, None, ("spicy", "sad"), None, None)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(export_graphs(served).linear)
    assert np.abs(asked(session, [*texts, *model.words_]) - expected).max() > TOLERANCE


@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e-3])
def test_model_that_learned_next_to_nothing_is_exported_faithfully(fitted: FittedModel, factor: float) -> None:
    model = copy(fitted.linear).calibrate(factor)
    served = FittedModel(model, None, fitted.labels, fitted.thresholds, fitted.choices)
    session = onnxruntime.InferenceSession(export_graphs(served).linear)
    texts = ["rainy day soup", "", "soup " * 2_000]
    assert np.abs(asked(session, texts) - model.predict_proba(texts)).max() <= TOLERANCE


def test_probabilities_sum_to_one(linear: onnxruntime.InferenceSession) -> None:
    assert np.allclose(asked(linear, ["rainy", "", "x" * 10_000]).sum(axis=1), 1, atol=1e-5)


def test_explanation_adds_up_to_the_scores(fitted: FittedModel, graphs: Graphs) -> None:
    session = onnxruntime.InferenceSession(graphs.linear + graphs.explanation)
    names = ["scores", "word_contributions", "character_contributions"]
    texts = np.array([["rainy day soup"], [""], ["🌶 hot"]], dtype=object)
    scores, words, characters = session.run(names, {"text": texts})
    intercepts = fitted.linear.intercepts_ * fitted.linear.inverse_temperature_
    assert np.allclose(words.sum(axis=1) + characters.sum(axis=1) + intercepts, scores, atol=1e-5)


def test_inference_answers_what_the_trainer_measured(trained_models: Path, small_data: Path) -> None:
    registry, encoder = open_registry(trained_models), load_encoder(ENCODER)
    assert encoder is not None
    cascade, _ = open_serving_model(registry, 1, EmbeddingStore(encoder, registry.embeddings_folder))
    keywords = Stage(StageKind.KEYWORD, KeywordClassifier([]))
    loader = Loader(
        RegistryReader(open_repository("", trained_models, MODEL), MODEL), keywords, 8, load_encoder(ENCODER)
    )
    held_out, _ = read_examples([small_data / "examples" / "held_out.jsonl"])
    texts = [each.text for each in held_out]
    measured, outcomes = cascade.answer(texts), answer(texts, loader.load(1, 1).stages, 1)
    kinds = [StageKind.TRANSFORMER if each else StageKind.LINEAR for each in measured.escalated]
    assert {StageKind.TRANSFORMER, StageKind.LINEAR} == set(kinds)
    for row, outcome, kind, answered in zip(measured.probabilities, outcomes, kinds, measured.answered, strict=True):
        if not answered:
            assert outcome.intents[0].label == "unknown"
            continue
        assert (outcome.kind, outcome.intents[0].label) == (kind, cascade.labels[int(row.argmax())])
        # The trainer's embeddings are kept in 16 bits.
        assert abs(outcome.intents[0].confidence - row.max()) < 0.01


def test_graph_loads_with_onnxruntime_and_numpy_alone_and_no_locale(graphs: Graphs, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graphs.linear)
    code = (
        "import sys\n"
        "for name in ('onnx', 'sklearn', 'skl2onnx', 'scipy', 'numba', 'tokenizers'): sys.modules[name] = None\n"
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        "print(session.run(['probabilities'], {'text': numpy.array([['so sad']], dtype=object)})[0].shape)\n"
    )
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (finished.stdout.strip(), finished.returncode) == ("(1, 8)", 0), finished.stderr
