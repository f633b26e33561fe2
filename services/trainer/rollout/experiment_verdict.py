"""The results of an experiment so far, and the verdict: whether the challenger may be promoted. Pure functions.

Both arms answered the same queries, so they are compared pair by pair, with the rules of the gate, on the queries that
people have labelled. When too few queries are labelled, the challenger is not promoted.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.trainer.dataset.examples import FEEDBACK
from services.trainer.evaluation.comparison import Prediction
from services.trainer.evaluation.gate import Decision, Rule, decide
from services.trainer.evaluation.metrics import evaluate_predictions
from services.trainer.evaluation.slices import slices_of
from services.trainer.feedback.answered_query import AnsweredQuery

CHAMPION, CHALLENGER = "champion", "challenger"
FEWEST_JUDGED = 30
LEAST_AGREEMENT = 0.5
MOST_ERRORS = 0.01
SLOWER_TIMES = 3.0
SLOWER_MICROS = 5_000.0
# The trainer ends an experiment by itself only after this many, so that one slow first query does not end it.
FEWEST_TIMED = 50
FEWEST_ERRORS = 3


@dataclass(frozen=True)
class Pair:
    """One query, the best labels of both arms, and their times in microseconds.

    `arm` is the arm that answered the caller. `failed` is true when the other arm failed; then its time is 0.
    """

    query_id: str
    text: str
    champion: str
    challenger: str
    champion_micros: int
    challenger_micros: int
    arm: str
    failed: bool = False


@dataclass(frozen=True)
class Observed:
    """The results of an experiment.

    Attributes:
        queries: number of queries that both arms answered.
        agreement: share of these queries with the same best label, in [0, 1].
        champion_micros, challenger_micros: median time of an answer, in microseconds.
        errors: number of queries that the challenger failed to answer.
        challenger_answered: number of queries that the challenger answered to callers.
        judged: answers of champion and challenger to each query that people have labelled.

    """

    queries: int = 0
    agreement: float = 0.0
    champion_micros: float = 0.0
    challenger_micros: float = 0.0
    errors: int = 0
    challenger_answered: int = 0
    judged: tuple[tuple[Prediction, Prediction], ...] = field(default=(), repr=False)

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracy of the champion and of the challenger on the labelled queries, in [0, 1]."""
        count = max(1, len(self.judged))
        champion = sum(prediction.right for prediction, _ in self.judged)
        challenger = sum(prediction.right for _, prediction in self.judged)
        return champion / count, challenger / count


def pairs_of(queries: Sequence[AnsweredQuery], experiment_id: str) -> list[Pair]:
    """Return the pairs of answers in an experiment."""
    pairs = []
    for query in queries:
        other = query.shadow
        if query.experiment_id != experiment_id or other is None:
            continue
        given, logged = (query.label, query.micros), (other.label, other.micros)
        champion, challenger = (logged, given) if query.arm == CHALLENGER else (given, logged)
        pairs.append(
            Pair(query.query_id, query.text, champion[0], challenger[0], champion[1], challenger[1], query.arm,
                 bool(other.error))
        )  # fmt: skip
    return pairs


def observe(pairs: Sequence[Pair], labels_of: Mapping[str, tuple[str, ...]]) -> Observed:
    """Return the results of an experiment.

    Args:
        pairs: the answers of both arms.
        labels_of: from the id of a query to the labels that people gave it.

    """
    both = [pair for pair in pairs if not pair.failed]
    judged = [
        (Prediction(labels, pair.champion, slices), Prediction(labels, pair.challenger, slices))
        for pair in both
        if (labels := labels_of.get(pair.query_id))
        for slices in (slices_of(pair.text, FEEDBACK),)
    ]
    return Observed(
        queries=len(both),
        agreement=sum(pair.champion == pair.challenger for pair in both) / max(1, len(both)),
        champion_micros=_median([pair.champion_micros for pair in both]),
        challenger_micros=_median([pair.challenger_micros for pair in both]),
        # Where the champion answers the caller, the shadow is the challenger, so its failure counts.
        errors=sum(pair.failed and pair.arm == CHAMPION for pair in pairs),
        challenger_answered=sum(pair.arm == CHALLENGER for pair in pairs),
        judged=tuple(judged),
    )


def verdict(observed: Observed, champion_version: int) -> Decision:
    """Return the verdict: the rules of the experiment, then those of the gate on the labelled queries."""
    judged, asked = len(observed.judged), observed.queries + observed.errors
    own = (
        Rule("enough_feedback", judged >= FEWEST_JUDGED, judged, FEWEST_JUDGED,
             f"{judged} queries that both arms answered have labels from people; {FEWEST_JUDGED} are needed"),
        Rule("enough_agreement", observed.agreement >= LEAST_AGREEMENT, observed.agreement, LEAST_AGREEMENT,
             f"same answer to {observed.agreement:.1%} of {observed.queries} queries; {LEAST_AGREEMENT:.0%} is needed"),
        Rule("no_errors", observed.errors <= MOST_ERRORS * asked, observed.errors, MOST_ERRORS * asked,
             f"the challenger failed at {observed.errors} of {asked} queries"),
        Rule("not_slower", not _slow(observed), observed.challenger_micros, _slowest(observed),
             f"median {observed.challenger_micros:.0f} µs, champion {observed.champion_micros:.0f} µs"),
    )  # fmt: skip
    if not judged:
        return Decision(own, champion_version)
    champion, challenger = (evaluate_predictions([pair[side] for pair in observed.judged]) for side in (0, 1))
    gate = decide(challenger, champion, champion_version)
    return Decision((*own, *gate.rules), champion_version, gate.groups)


def reason_to_stop(observed: Observed) -> str:
    """Say why an experiment must end now; empty when it may continue."""
    asked = observed.queries + observed.errors
    if observed.errors >= FEWEST_ERRORS and observed.errors > MOST_ERRORS * asked:
        return f"the challenger failed at {observed.errors} of {asked} queries"
    if observed.queries >= FEWEST_TIMED and _slow(observed):
        return (
            f"the challenger is slow: median {observed.challenger_micros:.0f} µs, "
            f"champion {observed.champion_micros:.0f} µs"
        )
    return ""


def _slowest(observed: Observed) -> float:
    return max(SLOWER_TIMES * observed.champion_micros, observed.champion_micros + SLOWER_MICROS)


def _slow(observed: Observed) -> bool:
    return observed.challenger_micros > _slowest(observed)


def _median(values: Sequence[int]) -> float:
    return float(statistics.median(values)) if values else 0.0
