"""Measure how often the gate lets a harmless retrain pass: feedback on one invented word, over the shipped data.

Each round gives feedback that an invented word means a random label, by one repeated text, by numbered texts or by
thirty phrases, and retrains against the same champion. Prints the changes of accuracy and macro-F1 in each round, and
the share that the gate promotes; ends with 1 when it is under 95 %. A round takes about ten seconds. Run it with
`.venv/bin/python -m benchmarks.gate --rounds 30`.
`benchmarks.gate_errors` measures both of the gate's errors on resamples of any examples.
"""

import argparse
import random
import shutil
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from moodfood.registry.v1.manifest_pb2 import HISTORY_ACTION_PROMOTED, EvaluationReport, PromotionDecision

from services.trainer.database.database import DATABASE_FILE, Database, file_url
from services.trainer.database.migrate import migrate
from services.trainer.dataset.taxonomy import load_taxonomy_labels
from services.trainer.feedback.store import Feedback, FeedbackStore
from services.trainer.runs.plan import Plan
from services.trainer.runs.retrain import retrain

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
ENCODER = ROOT / "models" / "encoder" / "all-minilm-l6-v2"
TAXONOMY = DATA / "taxonomy" / "mood_food_taxonomy.json"
SHARE_PROMOTED = 0.95
PHRASES = (
    "something {} tonight", "i want something {}", "{} food please", "feeling {} today", "craving {}", "{} dinner",
    "make it {}", "so {} right now", "need {} things", "a {} kind of day", "what is {} to eat", "give me {}",
    "{} and warm", "a little {} snack", "really {}", "is there anything {}", "{} lunch ideas", "my kids want {}",
    "cook me {} stuff", "{} again", "very {} mood", "quick {} meal", "{} for two", "can you do {}", "love {} dishes",
    "{} soup", "nothing but {}", "{} for my friends", "it has to be {}", "some {} please",
)  # fmt: skip


def texts(kind: str, word: str) -> list[str]:
    """Return thirty texts with an invented word."""
    if kind == "phrases":
        return [phrase.format(word) for phrase in PHRASES]
    return [PHRASES[0].format(word) + (f" {n}" if kind == "numbered" else "") for n in range(len(PHRASES))]


def plan_in(folder: Path) -> Plan:
    """Return the plan of a run on the shipped data."""
    return Plan(
        models_dir=str(folder / "models"),
        model="mood_food",
        keep_versions=10,
        seed_files=tuple(str(path) for path in sorted((DATA / "examples" / "train").glob("*.jsonl"))),
        held_out_file=str(DATA / "examples" / "held_out.jsonl"),
        golden_file=str(DATA / "examples" / "golden.jsonl"),
        taxonomy_file=str(TAXONOMY),
        encoder_dir=str(ENCODER),
    )


@dataclass(frozen=True)
class Trained:
    """What the registry held of a version."""

    version: int
    evaluation: EvaluationReport
    decision: PromotionDecision


def train(plan: Plan) -> Trained:
    """Run the stages up to a registered version, and return what the registry holds of it."""
    version = retrain(plan, lambda _stage, _share: None)
    versions = plan.registry.versions
    return Trained(version, versions.evaluation(version), versions.decision(version))


def run_round(folder: Path, plan: Plan, chance: random.Random, labels: tuple[str, ...]) -> tuple[str, Trained]:
    """Give feedback about one word, retrain, and delete the version again."""
    kind, label, word = (
        chance.choice(("one", "numbered", "phrases")),
        chance.choice(labels),
        f"glorp{chance.randrange(10**6)}",
    )
    with tempfile.TemporaryDirectory(dir=folder) as name:
        url = file_url(Path(name) / DATABASE_FILE)
        with closing(Database(url)) as database:
            migrate(database)
            FeedbackStore(database).add([Feedback(text, (label,)) for text in texts(kind, word)])
        result = train(replace(plan, database_url=url))
    shutil.rmtree(plan.registry.folder / str(result.version))
    return f"{kind:<9} {label:<26}", result


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance, labels, promoted = random.Random(asked.seed), load_taxonomy_labels(TAXONOMY).names, 0
    with tempfile.TemporaryDirectory() as name:
        plan = plan_in(Path(name))
        migrate(plan.database)
        champion = train(plan)
        plan.registry.alias.move(champion.version, 1, HISTORY_ACTION_PROMOTED, "benchmark", "the champion", expected=0)
        for _ in range(asked.rounds):
            what, result = run_round(Path(name), plan, chance, labels)
            promoted += result.decision.promoted
            failed = [f"{rule.rule}: {rule.detail}" for rule in result.decision.rules if not rule.passed]
            accuracy = result.evaluation.accuracy - champion.evaluation.accuracy
            macro_f1 = result.evaluation.macro_f1 - champion.evaluation.macro_f1
            print(what, f"{accuracy:+.4f} {macro_f1:+.4f}", "; ".join(failed) or "promoted", flush=True)
    print(f"{promoted} of {asked.rounds} promoted, limit {SHARE_PROMOTED:.0%}")
    sys.exit(0 if promoted >= SHARE_PROMOTED * asked.rounds else 1)


if __name__ == "__main__":
    main()
