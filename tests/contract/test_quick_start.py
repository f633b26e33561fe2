"""A trainer starts in a second, because its server loads no library that only training needs."""

import subprocess
import sys

from tests.conftest import ROOT

HEAVY = ("sklearn", "skl2onnx", "onnx", "onnxruntime", "scipy", "numba", "pandas", "pyarrow", "alembic")


def test_server_of_the_trainer_loads_nothing_that_only_training_needs() -> None:
    program = f"import services.trainer.__main__, sys; print(*sys.modules.keys() & {set(HEAVY)!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_stop_words_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    from services.trainer.dataset.stop_words import STOP_WORDS

    assert STOP_WORDS == ENGLISH_STOP_WORDS
