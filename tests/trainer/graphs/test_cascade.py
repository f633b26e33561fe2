from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from services.language.encoder import Encoder
from services.language.text import normalise
from services.trainer.dataset.examples import Example
from services.trainer.fitting.fit import FittedModel, fit
from services.trainer.fitting.thresholds import Thresholds
from services.trainer.graphs.cascade import Cascade, lower_thresholds
from services.trainer.graphs.embeddings import EmbeddingStore
from services.trainer.graphs.export import Graphs, export_graphs

NOUNS = ("soup", "cake", "tea")
EXAMPLES = [Example(f"{noun} number {n}", (noun,)) for n in range(40) for noun in NOUNS]
TEXTS = ["Soup!", "cake and tea", "nothing of that", "tea tea"]
ESCALATE_ALL, ESCALATE_NONE = Thresholds(0, np.inf, np.inf, 0), Thresholds(0, 0, -np.inf, 0)


class NounEncoder:
    """Embeds a text as counts of its nouns."""

    name, columns = "nouns-1", 3

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[text.lower().count(noun) for noun in NOUNS] for text in texts], dtype=np.float32)

    def embed_one(self, text: str) -> np.ndarray:
        return self.embed([text])


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    folder: Path = tmp_path_factory.mktemp("embeddings")
    return EmbeddingStore(cast(Encoder, NounEncoder()), folder)


@pytest.fixture(scope="module")
def model(embeddings: EmbeddingStore) -> FittedModel:
    return fit(EXAMPLES, [False] * len(EXAMPLES), embeddings).serving


@pytest.fixture(scope="module")
def graphs(model: FittedModel) -> Graphs:
    return export_graphs(model)


@pytest.fixture(scope="module")
def cascade(graphs: Graphs, model: FittedModel, embeddings: EmbeddingStore) -> Cascade:
    return Cascade(graphs, model.labels, model.thresholds, embeddings)


def test_linear_stage_answers_as_the_fitted_model(cascade: Cascade, model: FittedModel) -> None:
    probabilities, scores = cascade.ask_linear(TEXTS)
    normalised = [normalise(text) for text in TEXTS]
    assert np.allclose(model.linear.predict_proba(normalised), probabilities, atol=1e-5)
    assert np.allclose(model.linear.calibrated_scores(normalised), scores, atol=1e-4)


def test_escalated_queries_are_answered_by_the_transformer_stage_and_others_by_the_linear_one(cascade: Cascade) -> None:
    probabilities, scores = cascade.ask_linear(TEXTS)
    lowest = float(np.sort(scores.max(axis=1))[2])
    answers = cascade.with_thresholds(Thresholds(0, 0, lowest, 0)).answer(TEXTS)
    assert answers.escalated.sum() == 2
    expected = np.where(answers.escalated[:, None], cascade.ask_transformer(TEXTS, scores), probabilities)
    assert np.allclose(expected, answers.probabilities, atol=1e-6)


def test_transformer_stage_abstains_below_its_threshold_and_the_linear_stage_then_never(cascade: Cascade) -> None:
    above_everything = Thresholds(2, 0, -np.inf, 2)
    assert cascade.with_thresholds(above_everything).answer(TEXTS).answered.all()
    escalated = Thresholds(2, np.inf, np.inf, 2)
    assert not cascade.with_thresholds(escalated).answer(TEXTS).answered.any()


def test_linear_stage_alone_abstains_below_its_own_threshold(cascade: Cascade) -> None:
    alone = cascade.without_head()
    assert not alone.has_head
    assert not alone.with_thresholds(Thresholds(2, np.inf, np.inf, 0)).answer(TEXTS).answered.any()
    answers = alone.with_thresholds(ESCALATE_ALL).answer(TEXTS)
    assert answers.answered.all()
    assert not answers.escalated.any()
    assert cascade.has_head


def test_version_with_a_head_answers_alone_without_embeddings(graphs: Graphs, model: FittedModel) -> None:
    alone = Cascade(graphs, model.labels, ESCALATE_ALL, None)
    assert not alone.has_head
    assert not alone.answer(TEXTS).escalated.any()
    assert alone.measure_transformer_micros(TEXTS) == 0


def test_no_texts_get_no_answers(cascade: Cascade) -> None:
    answers = cascade.answer([])
    assert (answers.probabilities.shape, len(answers.escalated), len(answers.answered)) == ((0, 3), 0, 0)


@pytest.mark.parametrize("thresholds", [Thresholds(2, np.inf, np.inf, 2), Thresholds(2, 0, -np.inf, 2)])
def test_thresholds_are_lowered_until_none_of_some_texts_is_abstained_from(
    cascade: Cascade, thresholds: Thresholds
) -> None:
    strict = cascade.with_thresholds(thresholds)
    lowered = lower_thresholds(strict, TEXTS)
    assert strict.with_thresholds(lowered).answer(TEXTS).answered.all()
    assert strict.without_head().with_thresholds(lowered).answer(TEXTS).answered.all()
    assert thresholds == lower_thresholds(strict, [])


def test_thresholds_that_are_low_enough_stay(cascade: Cascade) -> None:
    assert lower_thresholds(cascade.with_thresholds(ESCALATE_NONE), TEXTS) == ESCALATE_NONE
