"""Finds examples whose label a model that has not seen them confidently contradicts: suspected label noise.

The method is confident learning (Northcutt, Jiang and Chuang, JAIR 2021): probabilities out of fold are compared with
the labels that were given. Instead of one threshold for each label it takes two for all: for what was given less than
a guess among all labels would get, for something else more than a half. On CLINC150 with five per cent of wrong labels
that finds 0.93 of them at precision 0.99; the per-label thresholds find 0.78 at 0.92 (`benchmarks/label_noise.py`
repeats the former). Without embeddings the words of the texts judge: 0.87 at 0.90.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from services.language.text import normalise
from services.trainer.dataset.examples import IMPORT, SEED, TAXONOMY, Example
from services.trainer.fitting import calibration
from services.trainer.fitting.head import HeadClassifier, principal_components
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.ngrams import count_words
from services.trainer.fitting.training_set import Embedder, fold_of, label_columns

# As a share of what each label would get by chance, and at most; with few labels chance alone is much.
BELIEVED_GIVEN, MOST_BELIEVED_GIVEN = 0.75, 0.04
BELIEVED_OTHER = 0.5
# Fewer examples train no model to be judged by.
FEWEST_EXAMPLES = 200
# Three of the folds' five parts would do as well; joining them saves two fits.
FOLDS = 3
LINEAR_SETTING, HEAD_SETTING = 1.0, 3.0
COMPONENTS = 200
CALIBRATED_ON = 3000
# A model contradicts about so many right labels too. When no more are suspected, leaving them out costs hard examples
# and gains nothing, so they are only shown to people: on clean CLINC150 it would cost 0.2 points.
WORTH_LEAVING_OUT = 0.015
# What people said about an answer corrects the model, so that it contradicts is no sign of an error.
SUSPECTED_SOURCES = frozenset({SEED, IMPORT})


@dataclass(frozen=True)
class Suspicion:
    """An example, the label that a model believes in instead, and how much, in [0, 1]."""

    example: Example
    believed: str
    confidence: float


def find_label_noise(examples: Sequence[Example], embeddings: Embedder | None) -> tuple[Suspicion, ...]:
    """Return the suspected examples, most confidently contradicted first.

    Args:
        examples: cleaned; those without a label and a taxonomy's descriptors are learned from and never suspected.
        embeddings: for a more accurate judge; without them the words judge.

    """
    labels, belongs = label_columns(examples)
    judged = np.array([bool(each.labels) and each.source in SUSPECTED_SOURCES for each in examples], dtype=bool)
    if judged.sum() < FEWEST_EXAMPLES or len(labels) < 2:
        return ()
    scores = _out_of_fold(examples, belongs, embeddings)
    sample = np.flatnonzero(judged)[:: max(1, int(judged.sum()) // CALIBRATED_ON)]
    targets = belongs[sample] / belongs[sample].sum(axis=1, keepdims=True)
    (temperature,) = calibration.fit_shares([scores[sample]], targets.astype(np.float32), [1.0])
    probabilities = softmax(scores * np.float32(temperature), axis=1)
    given = (probabilities * belongs).sum(axis=1)
    best = probabilities.argmax(axis=1)
    believed = probabilities[np.arange(len(best)), best]
    suspected = judged & (given < min(MOST_BELIEVED_GIVEN, BELIEVED_GIVEN / len(labels))) & (believed > BELIEVED_OTHER)
    rows = sorted(np.flatnonzero(suspected).tolist(), key=lambda row: -believed[row])
    return tuple(Suspicion(examples[row], labels[best[row]], float(believed[row])) for row in rows)


def worth_leaving_out(found: Sequence[Suspicion], examples: Sequence[Example]) -> tuple[Suspicion, ...]:
    """Return the suspicions when there are more than a model raises about right labels, else none."""
    return tuple(found) if len(found) > WORTH_LEAVING_OUT * len(examples) else ()


def _out_of_fold(examples: Sequence[Example], belongs: np.ndarray, embeddings: Embedder | None) -> np.ndarray:
    """Return scores float32 [n, n_labels], each row from a model that was not fitted to it."""
    texts = [normalise(each.text) for each in examples]
    folds = np.array([fold_of(text) % FOLDS for text in texts])
    definitions = np.array([each.source == TAXONOMY for each in examples], dtype=bool)
    scores = np.zeros(belongs.shape, dtype=np.float32)
    if embeddings is None:
        counts = count_words(texts)
        for fold in range(FOLDS):
            inside, outside = _sides(folds, definitions, fold)
            fitted = LinearClassifier(LINEAR_SETTING).fit_counts(counts.of(outside), belongs[outside])
            scores[inside] = fitted.scores_of(counts.of(inside))
        return scores
    components = principal_components(embeddings.embed([each.text for each in examples]), COMPONENTS)
    targets = belongs.astype(np.float32)
    targets[~belongs.any(axis=1)] = 1
    targets /= targets.sum(axis=1, keepdims=True)
    latest = None
    for fold in range(FOLDS):
        inside, outside = _sides(folds, definitions, fold)
        latest = HeadClassifier(HEAD_SETTING).fit_components(components, outside, targets[outside], latest)
        scores[inside] = latest.component_scores(components, inside)
    return scores


def _sides(folds: np.ndarray, definitions: np.ndarray, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a fold and those to fit to; a definition is fitted to in every fold."""
    return np.flatnonzero(folds == fold), np.flatnonzero((folds != fold) | definitions)
