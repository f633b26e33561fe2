"""Measure how many wrong labels are found: give some examples a wrong label, and look for them.

Prints the recall and the precision of what is found, by words and by embeddings. With `--train` it also trains on the
clean, the noisy and the cleaned data, and prints the accuracy of each on the test examples. Ends with 1 when recall or
precision is under 0.6, or when cleaned data cost more than 0.5 points of accuracy. Run it with
`.venv/bin/python -m benchmarks.label_noise --examples train.jsonl --test test.jsonl --train`.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from services.trainer.dataset.examples import Example
from services.trainer.dataset.files import read_examples
from services.trainer.dataset.snapshot import split
from services.trainer.evaluation.metrics import measure_accuracy
from services.trainer.fitting.fit import fit
from services.trainer.fitting.label_noise import find_label_noise, select_to_leave_out
from services.trainer.graphs.cascade import Cascade
from services.trainer.graphs.embeddings import EmbeddingStore, open_embeddings
from services.trainer.graphs.export import export_graphs

ENCODER = Path(__file__).resolve().parent.parent / "models" / "encoder" / "all-minilm-l6-v2"
LEAST_RECALL, LEAST_PRECISION, MOST_COST = 0.6, 0.6, 0.005


def inject(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], set[Example]]:
    """Give a share of the examples a random other label; return all examples, and those with a wrong label."""
    chance = random.Random(seed)
    labels = sorted({label for example in examples for label in example.labels})
    noisy = list(examples)
    for row in chance.sample(range(len(examples)), round(share * len(examples))):
        others = [label for label in labels if label not in examples[row].labels]
        noisy[row] = Example(examples[row].text, (chance.choice(others),), examples[row].source)
    return noisy, {after for before, after in zip(examples, noisy, strict=True) if before != after}


def test_accuracy(examples: Sequence[Example], test: Sequence[Example], embeddings: EmbeddingStore | None) -> float:
    """Train as a run does, and return the accuracy of the serving model."""
    snapshot = split(examples, [])
    model = fit(snapshot.fitted_examples, snapshot.holdout_mask, embeddings).serving
    cascade = Cascade(export_graphs(model), model.labels, model.thresholds, embeddings)
    answers = cascade.answer([example.text for example in test])
    return measure_accuracy(test, answers.probabilities, cascade.labels)


def measure(
    clean: Sequence[Example],
    noisy: Sequence[Example],
    injected: set[Example],
    test: Sequence[Example],
    embeddings: EmbeddingStore | None,
) -> bool:
    """Print what is found and, given test examples, what that is worth; say whether it is within the limits."""
    name = "embeddings" if embeddings is not None else "words"
    suspects = {found.example for found in select_to_leave_out(find_label_noise(noisy, embeddings), noisy)}
    hits = len(suspects & injected)
    recall, precision = hits / len(injected), hits / max(1, len(suspects))
    print(f"{name}: {recall:.3f} of {len(injected)} found at precision {precision:.3f}", flush=True)
    good = recall >= LEAST_RECALL and precision >= LEAST_PRECISION
    if not test:
        return good
    cleaned = [example for example in noisy if example not in suspects]
    accuracies = [test_accuracy(examples, test, embeddings) for examples in (clean, noisy, cleaned)]
    print(f"{name}: test accuracy clean {accuracies[0]:.4f}, noisy {accuracies[1]:.4f}, cleaned {accuracies[2]:.4f}")
    return good and accuracies[2] >= accuracies[0] - MOST_COST


def main() -> None:
    """Give wrong labels, look for them, and train if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="also train on the clean, the noisy and the cleaned data")
    asked = parser.parse_args()
    clean = [example for example in read_examples(asked.examples)[0] if example.labels]
    test = [example for example in read_examples(asked.test)[0] if example.labels]
    noisy, injected = inject(clean, asked.share, asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        stores = (None, open_embeddings(str(ENCODER), Path(folder)))
        good = [measure(clean, noisy, injected, test if asked.train else [], embeddings) for embeddings in stores]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
