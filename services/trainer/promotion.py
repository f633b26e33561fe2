"""The promotion policy: a pure function of two evaluations. Every rule is reported with its numbers, passed or not."""

from collections.abc import Callable
from dataclasses import dataclass

from services.trainer.evaluation import Evaluation

MAX_DROP = 0.01
FLOOR_ACCURACY = 0.4
FLOOR_MACRO_F1 = 0.3
MIN_FEEDBACK_EXAMPLES = 20
FEEDBACK_SHARE_OF_ACCURACY = 0.5
MAX_QUERY_MICROS = 10_000.0
MAX_MODEL_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True)
class Rule:
    """One rule and how it came out."""

    name: str
    passed: bool
    measured: float
    threshold: float
    detail: str


@dataclass(frozen=True)
class Decision:
    """Verdict and reasons; promoted when every rule passed."""

    rules: tuple[Rule, ...]
    champion_version: int = 0

    @property
    def promoted(self) -> bool:
        """Whether the challenger may serve."""
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each rule that failed."""
        return tuple(f"{rule.name}: {rule.detail}" for rule in self.rules if not rule.passed)


def decide(challenger: Evaluation, champion: Evaluation | None, champion_version: int = 0) -> Decision:
    """Compare a challenger with the champion on the same held-out examples, or with floors when there is none."""
    compared = (
        (_not_below_floor("accuracy", challenger.accuracy, FLOOR_ACCURACY),
         _not_below_floor("macro_f1", challenger.macro_f1, FLOOR_MACRO_F1))
        if champion is None
        else (_not_worse("accuracy", challenger.accuracy, champion.accuracy),
              _not_worse("macro_f1", challenger.macro_f1, champion.macro_f1))
    )  # fmt: skip
    asked: tuple[Callable[[Evaluation], Rule | None], ...] = (_golden, _feedback_learned, _fast_enough, _small_enough)
    answered = (rule(challenger) for rule in asked)
    return Decision((*compared, *(rule for rule in answered if rule is not None)), champion_version)


def _not_worse(name: str, challenger: float, champion: float) -> Rule:
    threshold = champion - MAX_DROP
    detail = f"challenger {challenger:.4f}, champion {champion:.4f}, at most {MAX_DROP} lower allowed"
    return Rule(f"{name}_not_worse", challenger >= threshold, challenger, threshold, detail)


def _not_below_floor(name: str, challenger: float, floor: float) -> Rule:
    return Rule(f"{name}_floor", challenger >= floor, challenger, floor, f"{challenger:.4f}, floor {floor}")


def _golden(challenger: Evaluation) -> Rule | None:
    if challenger.golden_queries == 0:
        return None
    wrong = len(challenger.golden_wrong)
    shown = "; ".join(challenger.golden_wrong[:5])
    detail = f"{wrong} of {challenger.golden_queries} golden queries wrong" + (f": {shown}" if wrong else "")
    return Rule("golden_all_right", wrong == 0, float(wrong), 0.0, detail)


def _feedback_learned(challenger: Evaluation) -> Rule | None:
    """Labels that cannot be predicted from their texts are noise: withheld feedback must be about as predictable."""
    if challenger.feedback_examples < MIN_FEEDBACK_EXAMPLES:
        return None
    measured, threshold = challenger.feedback_accuracy, FEEDBACK_SHARE_OF_ACCURACY * challenger.accuracy
    detail = (
        f"accuracy {measured:.4f} on {challenger.feedback_examples} withheld feedback examples, "
        f"{challenger.accuracy:.4f} on the held-out ones; half of that is needed"
    )
    return Rule("feedback_learned", measured >= threshold, measured, threshold, detail)


def _fast_enough(challenger: Evaluation) -> Rule:
    micros = challenger.mean_query_micros
    return Rule(
        "query_time", micros <= MAX_QUERY_MICROS, micros, MAX_QUERY_MICROS, f"{micros:.0f} µs per query on average"
    )


def _small_enough(challenger: Evaluation) -> Rule:
    size = challenger.model_bytes
    return Rule("model_size", size <= MAX_MODEL_BYTES, float(size), float(MAX_MODEL_BYTES), f"{size:,} bytes")
