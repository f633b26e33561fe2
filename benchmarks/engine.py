"""Measure the classification engine on any examples: accuracy, calibration, abstention, escalation, time, size, memory.

Trains by the command line in processes of their own: the linear stage alone, both stages, and both again with stored
embeddings. Measures version 1 on the test files, writes docs/benchmarks/NAME.md and NAME.png, and ends with 1 when a
ratio to another implementation is too small. For CLINC150 as JSON lines:

    make bench ARGS="--name clinc150 --examples train.jsonl --test test.jsonl oos_test.jsonl"
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.engine_measurements import ROOT, measure_version, train_three_times
from benchmarks.engine_page import write_page
from benchmarks.engine_plot import draw
from services.trainer.dataset.files import read_examples

PAGES = ROOT / "docs" / "benchmarks"


def main() -> None:
    """Measure, write the page and the picture, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = ROOT / "data" / "examples"
    parser.add_argument("--name", default="mood_food", help="of the page and the picture")
    parser.add_argument("--examples", type=Path, nargs="+", default=[shipped / "train" / "mood_food.jsonl"])
    parser.add_argument("--test", type=Path, nargs="+", default=[shipped / "held_out.jsonl"])
    parser.add_argument("--taxonomy", type=Path, help="labels that exist; models are fitted to their descriptors too")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of the page and the picture")
    asked = parser.parse_args()
    (train_set, _), (test, _) = read_examples(asked.examples), read_examples(asked.test)
    with tempfile.TemporaryDirectory() as folder:
        trainings = train_three_times(asked.examples, Path(folder), asked.taxonomy)
        measured = measure_version(Path(folder), train_set, test)
    page = write_page(asked.name, train_set, measured, trainings)
    asked.pages.mkdir(parents=True, exist_ok=True)
    (asked.pages / f"{asked.name}.md").write_text(page)
    draw(asked.pages / f"{asked.name}.png", asked.name, measured)
    print(page)
    sys.exit(0 if measured.speed.within_limits else 1)


if __name__ == "__main__":
    main()
