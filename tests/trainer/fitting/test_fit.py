import random
from collections.abc import Sequence

import numpy as np
import pytest

from services.language.text import normalise
from services.trainer.dataset.examples import Example
from services.trainer.errors import StageFailed
from services.trainer.fitting.fit import FITS_WITH_HEAD, FITS_WITHOUT_HEAD, FittedModel, fit

WORDS = {"drink": ["juice", "tea", "coffee", "cola"], "bread": ["toast", "bagel", "roll", "bun"]}


def some_examples(count: int) -> list[Example]:
    chance = random.Random(5)
    return [
        Example(f"{chance.choice(WORDS[label])} and {chance.choice(WORDS[label])} please {number}", (label,))
        for number, label in zip(range(count), ["drink", "bread"] * count, strict=False)
    ]


class WordVectors:
    """Embeds a text as counts of the words above, which tell the labels apart."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        words = [word for of_label in WORDS.values() for word in of_label]
        return np.array([[text.count(word) for word in words] for text in texts], dtype=np.float16)


def answers(model: FittedModel, *texts: str) -> list[str]:
    return [model.labels[column] for column in model.linear.predict([normalise(text) for text in texts])]


def weights_of(word: str, model: FittedModel) -> np.ndarray:
    return np.asarray(model.linear.weights_[model.linear.words_.index(word)])


EXAMPLES = some_examples(120)
NOTHING_HELD_OUT = [False] * len(EXAMPLES)


def test_without_a_holdout_one_model_evaluates_and_serves() -> None:
    models = fit(EXAMPLES, NOTHING_HELD_OUT, None)
    assert models.evaluation is models.serving
    assert answers(models.serving, "cola", "a bagel") == ["drink", "bread"]


def test_only_the_serving_model_is_fitted_to_the_holdout() -> None:
    taught = [Example(f"glorpy {n}", ("bread",)) for n in range(10)]
    models = fit([*EXAMPLES, *taught], [*NOTHING_HELD_OUT, *[True] * 10], None)
    assert weights_of("glorpy", models.serving).any()
    assert not weights_of("glorpy", models.evaluation).any()
    assert models.serving.choices == models.evaluation.choices
    assert models.serving.thresholds == models.evaluation.thresholds


def test_same_examples_give_the_same_models() -> None:
    first, again = (fit(EXAMPLES, NOTHING_HELD_OUT, WordVectors()).serving for _ in range(2))
    assert (first.linear.weights_ == again.linear.weights_).all()
    assert first.head is not None
    assert again.head is not None
    assert (first.head.weights_ == again.head.weights_).all()
    assert (first.thresholds, first.choices) == (again.thresholds, again.choices)


def test_both_stages_are_calibrated_by_what_was_chosen() -> None:
    model = fit(EXAMPLES, NOTHING_HELD_OUT, WordVectors()).serving
    assert model.head is not None
    assert model.choices.inverse_temperature == model.linear.inverse_temperature_ > 0
    expected = (model.choices.embedding_factor, model.choices.linear_factor)
    assert expected == (model.head.embedding_factor_, model.head.linear_factor_)
    assert np.isfinite(model.head.unknown_score_)
    assert len(EXAMPLES) == model.choices.out_of_fold_examples


@pytest.mark.parametrize(("embeddings", "expected"), [(None, FITS_WITHOUT_HEAD), (WordVectors(), FITS_WITH_HEAD)])
def test_progress_is_reported_after_about_as_many_fits_as_are_announced(
    embeddings: WordVectors | None, expected: int
) -> None:
    fits: list[None] = []
    fit(EXAMPLES, [*NOTHING_HELD_OUT[1:], True], embeddings, lambda: fits.append(None))
    assert expected <= len(fits) <= 3 * expected


def test_examples_that_are_all_alike_cannot_be_cross_validated() -> None:
    alike = [Example("soup cake", ("a",)), Example("cake soup", ("b",))]
    with pytest.raises(StageFailed, match="too alike"):
        fit(alike, [False, False], None)


def test_examples_with_a_label_must_be_among_those_that_are_held_back() -> None:
    definitions = [Example(f"word {n}", (label,), "taxonomy") for n in range(10) for label in ("a", "b")]
    out_of_scope = [Example(f"query number {n}", ()) for n in range(30)]
    with pytest.raises(StageFailed, match="no example with a label"):
        fit([*definitions, *out_of_scope], [False] * 50, None)
