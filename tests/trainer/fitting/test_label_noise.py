import random
from pathlib import Path

import pytest

from services.trainer.dataset.examples import FEEDBACK, IMPORT, SEED, TAXONOMY, Example
from services.trainer.fitting.label_noise import find_label_noise, select_to_leave_out
from services.trainer.graphs.embeddings import EmbeddingStore, open_embeddings
from tests.conftest import ENCODER

WORDS = {
    "drink": ["juice", "tea", "coffee", "cola"],
    "bread": ["toast", "bagel", "roll", "bun"],
    "fish": ["salmon", "tuna", "cod", "trout"],
}


def examples(count: int, source: str = SEED) -> list[Example]:
    chance = random.Random(3)
    made: dict[str, Example] = {}
    while len(made) < count:
        label = chance.choice(sorted(WORDS))
        some, things = chance.choice(["some", "a bit of", "give me"]), " and ".join(chance.sample(WORDS[label], 3))
        text = f"{some} {things} number {len(made)}"
        made[text] = Example(text, (label,), source)
    return list(made.values())


def wrong(example: Example) -> Example:
    other = sorted(set(WORDS) - set(example.labels))[0]
    return Example(example.text, (other,), example.source)


@pytest.mark.parametrize("with_embeddings", [False, True])
def test_wrong_labels_are_found_and_right_ones_are_not(with_embeddings: bool, tmp_path: Path) -> None:
    embeddings: EmbeddingStore | None = open_embeddings(str(ENCODER), tmp_path) if with_embeddings else None
    clean = examples(300)
    noisy = [wrong(example) if n % 20 == 0 else example for n, example in enumerate(clean)]
    found = find_label_noise(noisy, embeddings)
    injected = set(noisy[::20])
    assert {suspicion.example for suspicion in found} <= injected
    assert len(found) >= 0.3 * len(injected)
    believed = {suspicion.example.text: suspicion.believed for suspicion in found}
    assert all(believed[example.text] == example.labels[0] for example in clean if example.text in believed)
    assert find_label_noise(clean, embeddings) == ()


@pytest.mark.parametrize(("source", "suspected"), [(IMPORT, True), (FEEDBACK, False), (TAXONOMY, False)])
def test_only_what_nobody_said_about_an_answer_is_suspected(source: str, suspected: bool) -> None:
    clean = examples(300)
    doubtful = Example("some tuna and cod and trout", ("bread",), source)
    assert suspected == bool(find_label_noise([*clean, doubtful], None))


def test_few_suspects_are_shown_and_many_are_left_out() -> None:
    clean = examples(300)
    one = find_label_noise([*clean, Example("some tuna and cod and trout", ("bread",))], None)
    assert (len(one), select_to_leave_out(one, clean)) == (1, ())
    assert len(select_to_leave_out(one * 5, clean)) == 5


def test_few_examples_are_no_reason_to_suspect_one() -> None:
    doubtful = Example("some tuna and cod and trout", ("bread",))
    assert [doubtful] == [found.example for found in find_label_noise([*examples(199), doubtful], None)]
    assert find_label_noise([*examples(198), doubtful], None) == ()


def test_example_without_a_label_is_never_suspected() -> None:
    outside = Example("some tuna and cod and trout", ())
    assert find_label_noise([*examples(300), outside], None) == ()
