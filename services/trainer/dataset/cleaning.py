"""Drops the examples that no model may be fitted to, and counts them by reason."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.language.text import normalise
from services.trainer.dataset.examples import FROM_PEOPLE, REVIEW, Example
from services.trainer.dataset.words import describe_problem

MAX_ANSWERS_PER_QUERY = 2


@dataclass(frozen=True)
class Cleaned:
    """What is left of the examples.

    Attributes:
        examples: one for each normalised text, in the order in which the texts first occurred.
        dropped: how many examples were dropped, by reason.
        contradictory: texts to which people gave more than MAX_ANSWERS_PER_QUERY different sets of labels, with the
            latest of them. They are not among `examples`: a person must decide.

    """

    examples: tuple[Example, ...]
    dropped: Mapping[str, int]
    contradictory: tuple[Example, ...] = ()


def clean(
    seeds: Sequence[Example],
    feedback: Sequence[Example],
    evaluation_only: Sequence[Example],
    labels: Collection[str] | None,
) -> Cleaned:
    """Drop examples that cannot be used. Of two examples with the same normalised text, the later one is kept.

    Args:
        seeds: examples that ship with the project or were named by the caller.
        feedback: examples from people, oldest first.
        evaluation_only: test examples and golden queries; examples with the text of one of them are dropped.
        labels: the labels that exist, or None when every label does that an example carries.

    """
    known = None if labels is None else frozenset(labels)
    dropped: Counter[str] = Counter()
    evaluation_keys = {normalise(example.text) for example in evaluation_only}
    answers: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    kept: dict[str, Example] = {}
    contradictory: list[Example] = []
    for example in (*seeds, *feedback):
        reason = reason_to_drop(example, evaluation_keys, known)
        if reason:
            dropped[reason] += 1
            continue
        key = normalise(example.text)
        if key in kept:
            dropped["duplicate" if set(kept[key].labels) == set(example.labels) else "relabelled"] += 1
        if example.source == REVIEW:
            # The reviewer has seen the contradiction, so the review settles it.
            answers[key].clear()
        if example.source in FROM_PEOPLE:
            answers[key].add(tuple(sorted(example.labels)))
        kept[key] = example
    for key, different in answers.items():
        if len(different) > MAX_ANSWERS_PER_QUERY:
            dropped["contradictory"] += 1
            contradictory.append(kept.pop(key))
    return Cleaned(tuple(kept.values()), dict(dropped), tuple(contradictory))


def reason_to_drop(example: Example, evaluation_keys: Collection[str], labels: frozenset[str] | None) -> str:
    """Say why an example cannot be used, or return the empty string."""
    if describe_problem(example.text):
        return "unusable_text"
    if not example.labels and example.source in FROM_PEOPLE - {REVIEW}:
        return "no_label"
    if labels is not None and not labels.issuperset(example.labels):
        return "unknown_label"
    if normalise(example.text) in evaluation_keys:
        return "reserved_for_evaluation"
    return ""
