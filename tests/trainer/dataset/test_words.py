import pytest

from services.trainer.dataset.words import content_words, describe_problem, digest_of_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i want the spicy noodles", {"want", "spicy", "noodle"}),
        ("noodles noodle", {"noodle"}),
        ("what is it", set()),
        ("", set()),
    ],
)
def test_content_words_are_neither_function_words_nor_plurals(text: str, expected: set[str]) -> None:
    assert expected == content_words(text)


def test_digest_of_words_ignores_order_and_repetition_and_nothing_else() -> None:
    assert digest_of_words("hot soup hot") == digest_of_words("soup hot")
    assert digest_of_words("hot soup") != digest_of_words("hot soups")


@pytest.mark.parametrize("text", ["hot soup", "7", "🍕", "x" * 10_000])
def test_text_with_a_word_can_be_an_example(text: str) -> None:
    assert describe_problem(text) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "is empty"), ("?!", "has no word"), ("x" * 10_001, "10,001 characters"), ("a\0b", "NUL")],
)
def test_text_that_cannot_be_an_example_is_told_why(text: str, problem: str) -> None:
    assert problem in describe_problem(text)
