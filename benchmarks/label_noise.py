"""Measure how much injected label noise is found: inject wrong labels, find them, train with and without them.

Prints how many of the injected labels are found at which precision, with and without embeddings; with `--train` also
the test accuracy after cleaning, beside that of the clean and of the noisy data. Ends with 1 when under 60 % are found,
precision is under 0.6, or cleaning costs more than 0.5 points. Repeat with
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
from services.trainer.evaluation.metrics import accuracy
from services.trainer.fitting.fit import fit
from services.trainer.fitting.label_noise import find_label_noise, worth_leaving_out
from services.trainer.graphs.cascade import CascadeScorer
from services.trainer.graphs.embeddings import EmbeddingStore, open_embeddings
from services.trainer.graphs.export import export_graphs

ENCODER = Path(__file__).resolve().parent.parent / "models" / "encoder" / "all-minilm-l6-v2"
FOUND, PRECISION, POINTS = 0.6, 0.6, 0.005


def inject(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], set[Example]]:
    """Give a share of the examples another label, drawn at random; return all of them and the changed ones."""
    chance = random.Random(seed)
    labels = sorted({label for example in examples for label in example.labels})
    noisy = list(examples)
    for row in chance.sample(range(len(examples)), round(share * len(examples))):
        others = [label for label in labels if label not in examples[row].labels]
        noisy[row] = Example(examples[row].text, (chance.choice(others),), examples[row].source)
    return noisy, {after for before, after in zip(examples, noisy, strict=True) if before != after}


def test_accuracy(examples: Sequence[Example], test: Sequence[Example], embeddings: EmbeddingStore | None) -> float:
    """Train the way a run does and return the accuracy of what would serve."""
    snapshot = split(examples, [])
    model = fit(snapshot.fitted_examples, snapshot.holdout_mask, embeddings).serving
    return accuracy(CascadeScorer(export_graphs(model), model.labels, model.thresholds, embeddings), test)


def main() -> None:
    """Inject, find, and train if asked to."""
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
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for embeddings in (None, open_embeddings(str(ENCODER), Path(folder))):
            name = "embeddings" if embeddings is not None else "words"
            found_there = worth_leaving_out(find_label_noise(noisy, embeddings), noisy)
            suspects = {suspicion.example for suspicion in found_there}
            hits = len(suspects & injected)
            found, precision = hits / len(injected), hits / max(1, len(suspects))
            print(f"{name}: {found:.3f} of {len(injected)} found at precision {precision:.3f}", flush=True)
            good = good and found >= FOUND and precision >= PRECISION
            if asked.train:
                cleaned = [example for example in noisy if example not in suspects]
                scores = [test_accuracy(each, test, embeddings) for each in (clean, noisy, cleaned)]
                told = "clean {:.4f}, noisy {:.4f}, cleaned {:.4f}".format(*scores)
                print(f"{name}: test accuracy {told}", flush=True)
                good = good and scores[2] >= scores[0] - POINTS
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
