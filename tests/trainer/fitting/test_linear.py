import numpy as np
import pytest
from scipy import sparse
from sklearn.svm import LinearSVC

from services.trainer.fitting import linear
from services.trainer.fitting.coordinate_descent import LABELS_AT_ONCE, fit_one_vs_rest
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.ngrams import GramCounter, count_grams

TEXTS = [f"{verb} the {noun} {when}" for verb in ("cook", "bake", "order") for noun in ("soup", "cake", "pizza")
         for when in ("now", "tonight", "tomorrow please")]  # fmt: skip
LABEL_MATRIX = np.array([[noun in text for noun in ("soup", "cake", "pizza")] for text in TEXTS])


def test_grams_are_words_pairs_and_characters_between_spaces() -> None:
    counts = count_grams(["hot soup hot"])
    assert set(counts.words) == {"hot", "soup", "hot soup", "soup hot"}
    assert {" ho", "hot", "ot ", " hot ", "t so"} <= set(counts.characters)
    assert {len(gram) for gram in counts.characters} == {3, 4, 5}
    assert counts.matrix[0, counts.words.index("hot")] == 2


def test_counter_of_a_vocabulary_agrees_with_the_counts_it_came_from() -> None:
    counts = count_grams(TEXTS)
    counter = GramCounter(counts.words, counts.characters)
    assert (counter.count(TEXTS) != counts.matrix).nnz == 0
    assert counter.count(["xyzzy"]).nnz == 0


@pytest.mark.parametrize(("words", "characters"), [((), ("abc",)), (("abc",), ()), ((), ())])
def test_empty_vocabulary_counts_nothing(words: tuple[str, ...], characters: tuple[str, ...]) -> None:
    counted = GramCounter(words, characters).count(["abc", ""])
    assert counted.shape == (2, len(words) + len(characters))


def test_solver_ends_where_liblinear_does() -> None:
    chance = np.random.default_rng(3)
    features = sparse.random(400, 60, density=0.2, random_state=3, format="csr", dtype=np.float32)
    labels = chance.integers(0, 3, 400)
    weights, intercepts = fit_one_vs_rest(features, np.eye(3, dtype=bool)[labels], 1.0)
    theirs = LinearSVC(C=1.0, tol=1e-6, max_iter=100_000).fit(features, labels)
    scores, expected = features @ weights + intercepts, theirs.decision_function(features)
    assert np.abs(scores - expected).max() < 0.05
    assert (scores.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.99


def test_fit_is_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    features = sparse.random(200, 30, density=0.3, random_state=3, format="csr", dtype=np.float32)
    label_matrix = np.random.default_rng(3).random((200, LABELS_AT_ONCE + 20)) < 0.2
    fits = []
    for cores in ({0}, {0, 1, 2}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid, cores=cores: cores)
        fits.append(fit_one_vs_rest(features, label_matrix, 1.0))
    (weights, intercepts), (same_weights, same_intercepts) = fits
    assert (weights == same_weights).all()
    assert (intercepts == same_intercepts).all()


def test_classifier_learns_what_separates_labels() -> None:
    model = LinearClassifier().fit(TEXTS, LABEL_MATRIX).calibrate(5.0)
    assert model.predict(["a bowl of soup", "pizza pizza", "birthday cake"]).tolist() == [0, 2, 1]
    assert np.allclose(model.predict_proba(["soup", ""]).sum(axis=1), 1)


def test_scores_from_wider_counts_are_those_of_the_texts() -> None:
    model = LinearClassifier().fit(TEXTS[:18], LABEL_MATRIX[:18])
    assert np.allclose(model.scores_of(count_grams(TEXTS)), model.decision_function(TEXTS))


def test_rarest_grams_go_first_when_the_graph_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MAX_GRAPH_BYTES", 20 * (3 + linear.BYTES_PER_GRAM))
    model = LinearClassifier().fit(TEXTS, LABEL_MATRIX)
    assert model.weights_.shape[0] == 20
    assert "the" in model.words_
    assert "please" not in model.words_


def test_grams_of_one_text_alone_are_not_kept_unless_they_are_words() -> None:
    model = LinearClassifier().fit([*TEXTS, "quixotic zabaglione"], np.vstack([LABEL_MATRIX, [[True, False, False]]]))
    assert "quixotic" in model.words_
    assert "quixotic zabaglione" not in model.words_
    assert not any("uix" in gram for gram in model.characters_)
