import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from services.trainer.fitting.components import find_components
from services.trainer.fitting.head import HeadClassifier

CHANCE = np.random.default_rng(11)
CENTERS = CHANCE.normal(size=(3, 40))
LABELS = CHANCE.integers(0, 3, 600)
EMBEDDINGS = (CENTERS[LABELS] + CHANCE.normal(size=(600, 40)) + 5).astype(np.float32)
TARGETS = np.eye(3, dtype=np.float32)[LABELS]


def test_components_keep_all_there_is_to_keep() -> None:
    components = find_components(EMBEDDINGS.astype(np.float16))
    centred = EMBEDDINGS - components.center
    assert (components.projected**2).sum() == pytest.approx(len(EMBEDDINGS), rel=1e-2)
    assert np.corrcoef((centred**2).sum(axis=1), (components.projected**2).sum(axis=1))[0, 1] > 0.999


def test_head_answers_as_scikit_learns_logistic_regression_does() -> None:
    head = HeadClassifier(inverse_regularisation=1.0).fit(EMBEDDINGS, TARGETS)
    scale = float(np.sqrt(((EMBEDDINGS - EMBEDDINGS.mean(axis=0)) ** 2).sum(axis=1).mean()))
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit((EMBEDDINGS - EMBEDDINGS.mean(axis=0)) / scale, LABELS)
    expected = theirs.predict_proba((EMBEDDINGS - EMBEDDINGS.mean(axis=0)) / scale)
    found = head.predict_proba(np.hstack([EMBEDDINGS, np.zeros((600, 3), np.float32)]))
    assert np.abs(expected - found).max() < 0.05


def test_warm_start_ends_at_the_same_place() -> None:
    components, rows = find_components(EMBEDDINGS), np.arange(500)
    cold = HeadClassifier(3.0).fit_components(components, rows, TARGETS[rows])
    start = HeadClassifier(30.0).fit_components(components, rows, TARGETS[rows])
    warm = HeadClassifier(3.0).fit_components(components, rows, TARGETS[rows], start)
    gap = cold.embedding_scores(EMBEDDINGS) - warm.embedding_scores(EMBEDDINGS)
    assert np.abs(gap).max() < 0.2


def test_distribution_of_two_labels_is_learned_as_one() -> None:
    both = np.tile(np.array([[0.5, 0.5, 0.0]], dtype=np.float32), (600, 1))
    head = HeadClassifier(1.0).fit(EMBEDDINGS, both)
    found = head.predict_proba(np.hstack([EMBEDDINGS, np.zeros((600, 3), np.float32)]))
    assert np.abs(found.mean(axis=0) - [0.5, 0.5, 0.0]).max() < 0.05


def test_unknown_takes_probability_from_every_label_alike() -> None:
    head = HeadClassifier(1.0).fit(EMBEDDINGS, TARGETS)
    features = np.hstack([EMBEDDINGS, np.zeros((600, 3), np.float32)])
    plain = head.blend(1.0, 0.0, -np.inf).predict_proba(features)
    doubting = head.blend(1.0, 0.0, 2.0).predict_proba(features)
    assert np.allclose(plain.sum(axis=1), 1, atol=1e-5)
    assert (doubting.sum(axis=1) < 1).all()
    assert np.allclose(doubting / doubting.sum(axis=1, keepdims=True), plain, atol=1e-5)


def test_linear_scores_move_the_answer_by_their_share() -> None:
    head = HeadClassifier(1.0).fit(EMBEDDINGS, TARGETS).blend(0.0, 1.0, -np.inf)
    scores = np.array([[0.0, 3.0, 0.0]], dtype=np.float32)
    assert head.predict_proba(np.hstack([EMBEDDINGS[:1], scores])).argmax() == 1
