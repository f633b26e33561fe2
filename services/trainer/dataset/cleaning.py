"""Decides which of the collected examples may be learned from, and counts every drop by its reason."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.language.text import normalise
from services.trainer.dataset.examples import FROM_PEOPLE, REVIEW, Example
from services.trainer.dataset.words import describe_problem

MAX_ANSWERS_PER_QUERY = 2


@dataclass(frozen=True)
class Cleaned:
    """Examples to learn from, in a stable order, and how many were dropped for which reason.

    `contradictory` are queries that people gave too many different labels, with the last of them; a person must decide.
    """

    examples: tuple[Example, ...]
    dropped: Mapping[str, int]
    contradictory: tuple[Example, ...] = ()


def clean(
    seeds: Sequence[Example],
    feedback: Sequence[Example],
    reserved: Sequence[Example],
    labels: Collection[str] | None,
) -> Cleaned:
    """Drop what cannot be used; later labels for a query replace earlier ones.

    Args:
        seeds: examples that ship with the project or were named on the command line.
        feedback: what people said, oldest first.
        reserved: queries kept for evaluation; nothing may be learned from them.
        labels: labels that exist, or None when whatever the examples use exists.

    """
    known = None if labels is None else frozenset(labels)
    dropped: Counter[str] = Counter()
    reserved_keys = {normalise(example.text) for example in reserved}
    answers: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    kept: dict[str, Example] = {}
    contradictory: list[Example] = []
    for example in (*seeds, *feedback):
        reason = reason_to_drop(example, reserved_keys, known)
        if reason:
            dropped[reason] += 1
            continue
        key = normalise(example.text)
        if key in kept:
            dropped["duplicate" if set(kept[key].labels) == set(example.labels) else "relabelled"] += 1
        if example.source == REVIEW:
            # Whoever reviews has seen the contradiction, and decides it.
            answers[key].clear()
        if example.source in FROM_PEOPLE:
            answers[key].add(tuple(sorted(example.labels)))
        kept[key] = example
    for key, different in answers.items():
        if len(different) > MAX_ANSWERS_PER_QUERY:
            dropped["contradictory"] += 1
            contradictory.append(kept.pop(key))
    return Cleaned(tuple(kept.values()), dict(dropped), tuple(contradictory))


def reason_to_drop(example: Example, reserved_keys: Collection[str], labels: frozenset[str] | None) -> str:
    """Say why an example cannot be used, or return the empty string."""
    if describe_problem(example.text):
        return "unusable_text"
    if not example.labels and example.source in FROM_PEOPLE - {REVIEW}:
        return "no_label"
    if labels is not None and not labels.issuperset(example.labels):
        return "unknown_label"
    if normalise(example.text) in reserved_keys:
        return "reserved_for_evaluation"
    return ""
