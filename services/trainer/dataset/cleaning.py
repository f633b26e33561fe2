"""Drops the examples that no model may be fitted to, and counts them by reason.

Feedback is read newest first and no further than a bound, so a run needs the same memory whatever the store holds.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from services.language.text import normalise
from services.trainer.dataset.examples import FROM_PEOPLE, REVIEW, Example
from services.trainer.dataset.words import describe_problem

MAX_ANSWERS_PER_QUERY = 2
# A run learns the feedback on so many texts, those that people spoke of last.
MOST_FEEDBACK = 200_000
# Popular queries are spoken of again and again. To find those texts, a run reads so many statements for each of them.
STATEMENTS_PER_TEXT = 10


@dataclass(frozen=True)
class Cleaned:
    """What is left of the examples.

    Attributes:
        examples: one for each normalised text. First those with the text of a seed, in the order of the seeds; then
            the others, in the order in which people last spoke of them.
        dropped: how many examples were dropped, by reason.
        contradictory: texts to which people gave more than MAX_ANSWERS_PER_QUERY different sets of labels, with the
            latest of them. They are not among `examples`: a person must decide.

    """

    examples: tuple[Example, ...]
    dropped: Mapping[str, int]
    contradictory: tuple[Example, ...] = ()


@dataclass(frozen=True)
class _Rules:
    """What decides whether an example can be used, and the count of those that cannot, by reason."""

    evaluation_keys: Collection[str]
    labels: frozenset[str] | None
    dropped: Counter[str] = field(default_factory=Counter)

    def key_of(self, example: Example) -> str:
        """Return the normalised text of an example; if it cannot be used, count that and return the empty string."""
        key = normalise(example.text)
        reason = _reason_to_drop(example, key, self.evaluation_keys, self.labels)
        if reason:
            self.dropped[reason] += 1
        return "" if reason else key

    def count_repetition(self, example: Example, kept: Example) -> bool:
        """Count an example whose text has another example that is kept. Returns whether the labels are the same."""
        is_same = set(kept.labels) == set(example.labels)
        self.dropped["duplicate" if is_same else "relabelled"] += 1
        return is_same


def clean(
    seeds: Sequence[Example],
    feedback: Iterable[Example],
    evaluation_only: Sequence[Example],
    labels: Collection[str] | None,
    most_feedback: int = MOST_FEEDBACK,
) -> Cleaned:
    """Drop examples that cannot be used. Of two examples with the same normalised text, the later one is kept.

    Args:
        seeds: examples that ship with the project or were named by the caller.
        feedback: examples from people, newest first. It is not read further than the bound.
        evaluation_only: test examples and golden queries; examples with the text of one of them are dropped.
        labels: the labels that exist, or None when every label does that an example carries.
        most_feedback: on how many different texts feedback is learned.

    """
    rules = _Rules(
        {normalise(example.text) for example in evaluation_only}, None if labels is None else frozenset(labels)
    )
    said, disputed = _read_newest(feedback, rules, most_feedback)
    kept: dict[str, Example] = {}
    for seed in seeds:
        key = rules.key_of(seed)
        if not key:
            continue
        later = said.get(key)
        if later or key in kept:
            rules.count_repetition(seed, later or kept[key])
        if key not in disputed:
            kept[key] = later or seed
    for key in reversed(said):
        if key not in disputed:
            kept.setdefault(key, said[key])
    if disputed:
        rules.dropped["contradictory"] += len(disputed)
    contradictory = tuple(said[key] for key in reversed(said) if key in disputed)
    return Cleaned(tuple(kept.values()), dict(rules.dropped), contradictory)


def _read_newest(
    feedback: Iterable[Example], rules: _Rules, most_texts: int
) -> tuple[dict[str, Example], frozenset[str]]:
    """Return the newest statement about each normalised text, newest first, and the texts on which people disagree."""
    said: dict[str, Example] = {}
    other_answers: dict[str, set[frozenset[str]]] = {}
    settled: set[str] = set()
    for example in islice(feedback, most_texts * STATEMENTS_PER_TEXT):
        key = rules.key_of(example)
        if not key:
            continue
        if key not in said:
            if len(said) == most_texts:
                break
            said[key] = example
        elif not rules.count_repetition(example, said[key]) and key not in settled:
            others = other_answers.setdefault(key, set())
            if len(others) < MAX_ANSWERS_PER_QUERY:
                others.add(frozenset(example.labels))
        if example.source == REVIEW:
            # The reviewer has seen the answers before the review, so the review settles them.
            settled.add(key)
    disputed = (key for key, others in other_answers.items() if len(others) >= MAX_ANSWERS_PER_QUERY)
    return said, frozenset(disputed)


def _reason_to_drop(example: Example, key: str, evaluation_keys: Collection[str], labels: frozenset[str] | None) -> str:
    """Say why an example with this normalised text cannot be used, or return the empty string."""
    if describe_problem(example.text):
        return "unusable_text"
    if not example.labels and example.source in FROM_PEOPLE - {REVIEW}:
        return "no_label"
    if labels is not None and not labels.issuperset(example.labels):
        return "unknown_label"
    return "reserved_for_evaluation" if key in evaluation_keys else ""
