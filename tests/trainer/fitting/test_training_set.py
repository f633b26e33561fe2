import numpy as np
import pytest

from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.errors import StageFailed
from services.trainer.fitting.training_set import (
    FOLDS,
    build_label_matrix,
    build_training_data,
    fold_of,
    target_distributions,
)

EXAMPLES = [
    Example("warm soup", ("b", "a")),
    Example("cake", ("c",)),
    Example("hello", ()),
    Example("hot", ("a",), TAXONOMY),
]


def test_columns_of_the_label_matrix_are_sorted_by_label() -> None:
    labels, label_matrix = build_label_matrix(EXAMPLES)
    assert labels == ("a", "b", "c")
    expected = [[True, True, False], [False, False, True], [False, False, False], [True, False, False]]
    assert expected == label_matrix.tolist()


def test_targets_share_one_among_the_labels_of_an_example_and_among_all_without_any() -> None:
    targets = target_distributions(np.array([[True, True, False, False], [False, False, False, False]]))
    assert targets.tolist() == [[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]


def test_nothing_is_measured_on_descriptors_of_the_taxonomy() -> None:
    data = build_training_data(EXAMPLES, None, lambda: None)
    assert data.measured.tolist() == [True, True, True, False]


def test_fold_depends_on_the_words_of_a_text_and_not_on_their_order() -> None:
    assert fold_of("warm soup warm") == fold_of("soup warm")
    assert set(range(FOLDS)) == {fold_of(f"query number {n}") for n in range(200)}


def test_one_label_alone_cannot_be_told_from_others() -> None:
    with pytest.raises(StageFailed, match="1 different labels"):
        build_training_data([Example("soup", ("a",)), Example("cake", ())], None, lambda: None)
