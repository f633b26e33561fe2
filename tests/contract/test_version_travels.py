"""What the trainer writes, inference loads; scikit-learn and ONNX agree on any text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.linear import LinearClassifier, open_session
from services.inference.repository import ModelRepository
from services.trainer.examples import read_examples
from services.trainer.export import INPUT_NAME, OUTPUT_NAME, export_graph
from services.trainer.parity import check_parity
from services.trainer.scoring import GraphScorer
from services.trainer.training import FittedModel, fit
from tests.registries import MODEL


@pytest.fixture(scope="module")
def fitted(small_data: Path) -> FittedModel:
    examples, _ = read_examples([small_data / "examples" / "train" / "mood_food.jsonl"])
    return fit(examples)


@pytest.fixture(scope="module")
def scorer(fitted: FittedModel) -> GraphScorer:
    return GraphScorer(export_graph(fitted), fitted.labels)


WORDS = ("rainy", "day", "soup", "i", "want", "pizza", "chocolate", "so", "sad", "hot", "spicy", "🌶", "चाय", "ß")
FRIENDLY = st.lists(st.sampled_from(WORDS))
ANY_TEXT = st.one_of(st.text(), FRIENDLY.map(" ".join), st.text(alphabet="ab \t\n\0’'e\u0301", max_size=40))


@settings(max_examples=500, deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_scikit_learn_and_onnx_answer_alike_on_any_text(
    fitted: FittedModel, scorer: GraphScorer, texts: list[str]
) -> None:
    check_parity(fitted.probabilities(texts), scorer.probabilities(texts), texts)


def test_probabilities_sum_to_one(scorer: GraphScorer) -> None:
    rows = scorer.probabilities(["rainy", "", "x" * 10_000, "🔥" * 100])
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)


def test_inference_answers_what_the_trainer_measured(trained_models: Path) -> None:
    manifest, graph = ModelRepository(trained_models, MODEL).read(1)
    serving = LinearClassifier(open_session(graph), INPUT_NAME, OUTPUT_NAME, tuple(manifest.labels))
    measured = GraphScorer(graph, manifest.labels)
    texts = ["so sad and rainy", "PIZZA!", "can't decide", ""]
    assert np.allclose(serving.probabilities(texts), measured.probabilities(texts), rtol=0, atol=1e-6)
