"""Finds examples whose label a model that was not fitted to them confidently contradicts: suspected label noise.

The method is confident learning (Northcutt, Jiang and Chuang, JAIR 2021): the given labels are compared with
probabilities out of fold. The original has a threshold for each label; here two thresholds serve all labels: an example
is suspected when its given labels get less probability than a guess among all labels would give them, and another label
more than a half. On CLINC150 with 5 % of wrong labels this finds 0.93 of them at precision 0.99 (measured by
`benchmarks/label_noise.py`); thresholds for each label find 0.78 at 0.92. Without embeddings a model of the words gives
the probabilities, and finds 0.87 at 0.90.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from services.language.text import normalise
from services.trainer.dataset.examples import IMPORT, SEED, TAXONOMY, Example
from services.trainer.fitting import calibration
from services.trainer.fitting.components import find_components
from services.trainer.fitting.head import HeadClassifier
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.ngrams import count_words
from services.trainer.fitting.training_set import Embedder, build_label_matrix, fold_of, target_distributions

# A guess among n labels gives a label the probability 1/n. An example is suspected when its labels get less than
# GIVEN_SHARE of that. With few labels 1/n is large, so they must also get less than MOST_GIVEN.
GIVEN_SHARE, MOST_GIVEN = 0.75, 0.04
LEAST_BELIEVED = 0.5
# With fewer examples no model is good enough to contradict a person.
FEWEST_EXAMPLES = 200
# Folds of the training set are joined to three, which saves two fits and finds as much.
FOLDS = 3
LINEAR_SETTING, HEAD_SETTING = 1.0, 3.0
COMPONENTS = 200
CALIBRATION_EXAMPLES = 3000
# A model also contradicts about this share of right labels. When it suspects no more than that, the suspects are only
# shown to people: to drop them costs hard examples and gains nothing, 0.2 points of accuracy on clean CLINC150.
WORTH_LEAVING_OUT = 0.015
# Feedback corrects the model, so a model that contradicts it is no sign of an error.
SUSPECTED_SOURCES = frozenset({SEED, IMPORT})


@dataclass(frozen=True)
class Suspicion:
    """A suspected example, the label that the model gives it instead, and that label's probability, in [0, 1]."""

    example: Example
    believed: str
    confidence: float


def find_label_noise(examples: Sequence[Example], embeddings: Embedder | None) -> tuple[Suspicion, ...]:
    """Return the suspected examples, most confidently contradicted first.

    Args:
        examples: cleaned. Feedback, examples without a label and a taxonomy's descriptors are never suspected, but
            models are fitted to them.
        embeddings: of the examples, which find more than words do; None to use the words.

    """
    labels, label_matrix = build_label_matrix(examples)
    is_candidate = [bool(example.labels) and example.source in SUSPECTED_SOURCES for example in examples]
    candidates = np.flatnonzero(np.array(is_candidate, dtype=bool))
    if len(candidates) < FEWEST_EXAMPLES or len(labels) < 2:
        return ()
    scores = _score_out_of_fold(examples, label_matrix, embeddings)
    probabilities = _calibrate(scores, label_matrix, candidates)
    given = (probabilities * label_matrix).sum(axis=1)
    best = probabilities.argmax(axis=1)
    believed = probabilities[np.arange(len(best)), best]
    suspected = (given < min(MOST_GIVEN, GIVEN_SHARE / len(labels))) & (believed > LEAST_BELIEVED)
    rows = sorted(candidates[suspected[candidates]].tolist(), key=lambda row: -believed[row])
    return tuple(Suspicion(examples[row], labels[best[row]], float(believed[row])) for row in rows)


def select_to_leave_out(found: Sequence[Suspicion], examples: Sequence[Example]) -> tuple[Suspicion, ...]:
    """Return all suspicions if they are more than a model has on correct data; if they are fewer, return none."""
    return tuple(found) if len(found) > WORTH_LEAVING_OUT * len(examples) else ()


def _calibrate(scores: np.ndarray, label_matrix: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return probabilities float32 [n, n_labels], calibrated on an even sample of the candidates."""
    sample = candidates[:: max(1, len(candidates) // CALIBRATION_EXAMPLES)]
    targets = target_distributions(label_matrix[sample])
    (inverse_temperature,) = calibration.fit_factors([scores[sample]], targets, [1.0])
    return np.asarray(softmax(scores * np.float32(inverse_temperature), axis=1))


def _score_out_of_fold(
    examples: Sequence[Example], label_matrix: np.ndarray, embeddings: Embedder | None
) -> np.ndarray:
    """Return scores float32 [n, n_labels], each row by a model that was not fitted to it."""
    texts = [normalise(example.text) for example in examples]
    folds = np.array([fold_of(text) % FOLDS for text in texts])
    descriptors = np.array([example.source == TAXONOMY for example in examples], dtype=bool)
    if embeddings is None:
        return _score_by_words(texts, label_matrix, folds, descriptors)
    vectors = embeddings.embed([example.text for example in examples])
    return _score_by_embeddings(vectors, label_matrix, folds, descriptors)


def _score_by_words(
    texts: Sequence[str], label_matrix: np.ndarray, folds: np.ndarray, descriptors: np.ndarray
) -> np.ndarray:
    counts = count_words(texts)
    scores = np.zeros(label_matrix.shape, dtype=np.float32)
    for scored, fitted in _divide(folds, descriptors):
        model = LinearClassifier(LINEAR_SETTING).fit_counts(counts.of(fitted), label_matrix[fitted])
        scores[scored] = model.scores_of(counts.of(scored))
    return scores


def _score_by_embeddings(
    vectors: np.ndarray, label_matrix: np.ndarray, folds: np.ndarray, descriptors: np.ndarray
) -> np.ndarray:
    components, targets = find_components(vectors, COMPONENTS), target_distributions(label_matrix)
    scores = np.zeros(label_matrix.shape, dtype=np.float32)
    latest = None
    for scored, fitted in _divide(folds, descriptors):
        latest = HeadClassifier(HEAD_SETTING).fit_components(components, fitted, targets[fitted], latest)
        scores[scored] = latest.component_scores(components, scored)
    return scores


def _divide(folds: np.ndarray, descriptors: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each fold the rows to score and the rows to fit to; descriptors are fitted to in every fold."""
    for fold in range(FOLDS):
        yield np.flatnonzero(folds == fold), np.flatnonzero((folds != fold) | descriptors)
