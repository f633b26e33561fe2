import numpy as np
import pytest

from services.trainer.errors import StageFailed
from services.trainer.graphs.parity import check_parity

FITTED = np.array([[0.6, 0.4], [0.2, 0.8]])
TEXTS = ["one", "two"]


def test_equal_answers_pass() -> None:
    check_parity(FITTED, FITTED.astype(np.float32), TEXTS)


def test_ties_within_rounding_are_one_answer() -> None:
    check_parity(np.array([[0.5, 0.5]]), np.array([[0.4999999, 0.5000001]]), ["tie"])


@pytest.mark.parametrize("exported", [[[0.4, 0.6], [0.2, 0.8]], [[0.6002, 0.3998], [0.2, 0.8]]])
def test_other_label_or_other_probability_fails_and_names_the_text(exported: list[list[float]]) -> None:
    with pytest.raises(StageFailed, match="'one'"):
        check_parity(FITTED, np.array(exported), TEXTS)
