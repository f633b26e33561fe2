"""The gate: decides by fixed rules whether a challenger may become the champion. A pure function of evaluations.

Every rule is reported with its numbers, whether it passed or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.trainer.evaluation.comparison import Difference, GroupComparison, compare_groups, measure_differences
from services.trainer.evaluation.metrics import Evaluation

# A drop of up to SMALLEST_ALLOWED_DROP passes and one above LARGEST_ALLOWED_DROP fails. Between them,
# ALLOWED_DEVIATIONS standard deviations of the difference decide.
SMALLEST_ALLOWED_DROP = 0.01
LARGEST_ALLOWED_DROP = 0.02
ALLOWED_DEVIATIONS = 2.0
MAX_LABEL_LOSS = 0.10
MAX_SLICE_LOSS = 0.05
FLOOR_ACCURACY = 0.4
FLOOR_MACRO_F1 = 0.3
MIN_FEEDBACK_EXAMPLES = 20
FEEDBACK_SHARE_OF_ACCURACY = 0.5
MAX_QUERY_MICROS = 10_000.0
MAX_MODEL_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True)
class Rule:
    """A rule and its result; low and high are the ends of the interval of what was measured, 0 without an interval."""

    name: str
    passed: bool
    measured: float
    threshold: float
    detail: str
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The result of every rule, and both models on every label and slice that was compared."""

    rules: tuple[Rule, ...]
    champion_version: int = 0
    groups: tuple[GroupComparison, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """Whether every rule passed, so that the challenger may serve."""
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each rule that failed."""
        return tuple(f"{rule.name}: {rule.detail}" for rule in self.rules if not rule.passed)


def decide(challenger: Evaluation, champion: Evaluation | None, champion_version: int = 0) -> Decision:
    """Compare a challenger with the champion on the same examples; without a champion, compare it with floors."""
    if champion is None:
        groups: tuple[GroupComparison, ...] = ()
        compared: tuple[Rule, ...] = (
            _not_below_floor("accuracy", challenger.accuracy, FLOOR_ACCURACY),
            _not_below_floor("macro_f1", challenger.macro_f1, FLOOR_MACRO_F1),
        )
    else:
        groups = compare_groups(challenger.predictions, champion.predictions)
        compared = (
            *_compare_totals(challenger, champion),
            _no_group_lost("label", groups, MAX_LABEL_LOSS),
            _no_group_lost("slice", groups, MAX_SLICE_LOSS),
        )
    own = (rule(challenger) for rule in RULES_OF_THE_CHALLENGER)
    return Decision((*compared, *(rule for rule in own if rule is not None)), champion_version, groups)


def _compare_totals(challenger: Evaluation, champion: Evaluation) -> tuple[Rule, ...]:
    """Return, for accuracy and macro-F1, the rules that the challenger is not worse and not surely worse."""
    if challenger.predictions:
        accuracy, macro_f1 = measure_differences(challenger.predictions, champion.predictions)
    else:
        accuracy, macro_f1 = (
            Difference(apart, apart, max(apart, 0.0), 0.0)
            for apart in (challenger.accuracy - champion.accuracy, challenger.macro_f1 - champion.macro_f1)
        )
    return (
        *_total_rules("accuracy", challenger.accuracy, champion.accuracy, accuracy),
        *_total_rules("macro_f1", challenger.macro_f1, champion.macro_f1, macro_f1),
    )


def _total_rules(name: str, challenger: float, champion: float, apart: Difference) -> tuple[Rule, Rule]:
    allowed = min(max(ALLOWED_DEVIATIONS * apart.deviation, SMALLEST_ALLOWED_DROP), LARGEST_ALLOWED_DROP)
    numbers = f"challenger {challenger:.4f}, champion {champion:.4f}"
    interval = f"99 % interval of the difference {apart.low:+.4f} to {apart.high:+.4f}"
    return (
        Rule(
            f"{name}_not_worse",
            challenger >= champion - allowed,
            challenger,
            champion - allowed,
            f"{numbers}, at most {allowed:.4f} lower allowed",
            champion + apart.low,
            champion + apart.high,
        ),
        Rule(
            f"{name}_not_surely_worse",
            apart.high >= 0,
            apart.value,
            0.0,
            f"{interval}; refused when all of it is below 0",
            apart.low,
            apart.high,
        ),
    )


def _no_group_lost(kind: str, groups: Sequence[GroupComparison], allowed: float) -> Rule:
    """Refuse a challenger that surely loses more than allowed on a label or slice."""
    compared = [group for group in groups if group.kind == kind]
    lost = sorted(
        (group for group in compared if group.is_sure and group.loss > allowed), key=lambda group: -group.loss
    )
    worst = max((group.loss for group in compared), default=0.0)
    shown = "; ".join(
        f"{group.name}: {group.champion:.2f} to {group.challenger:.2f} on {group.examples} examples"
        for group in lost[:5]
    )
    detail = f"{len(lost)} of {len(compared)} {kind}s with 20 examples or more surely lose more than {allowed:.2f}"
    return Rule(f"no_{kind}_lost", not lost, worst, allowed, detail + (f": {shown}" if shown else ""))


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
    """Refuse feedback that is noise: its hold-out must be at least half as predictable as the other examples."""
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


RULES_OF_THE_CHALLENGER: tuple[Callable[[Evaluation], Rule | None], ...] = (
    _golden,
    _feedback_learned,
    _fast_enough,
    _small_enough,
)
