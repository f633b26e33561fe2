import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.language.text import MAX_QUERY_CHARS, describe_problem, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rainy DAY, warm & cozy!", "rainy day warm cozy"),
        ("I can't / I can’t", "i cant i cant"),
        ("  tabs\tand\nlines  ", "tabs and lines"),
        ("ﬁsh and ｆｕｌｌ width", "fish and full width"),
        ("so hot🔥🌶️", "so hot 🔥 🌶 \ufe0f"),
        ("मसाला चाय", "मसाला चाय"),
        ("?!...", ""),
    ],
)
def test_normalised_text_is_lower_case_words_between_single_spaces(text: str, expected: str) -> None:
    assert expected == normalise(text)


@settings(max_examples=1000, deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(text) == normalise(normalise(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("\n\t", "is empty"),
        ("a\0b", "NUL"),
        ("x" * (MAX_QUERY_CHARS + 1), "has 10,001 characters; send at most 10,000"),
        ("half \ud800", "surrogate"),
    ],
)
def test_text_that_cannot_be_a_query_has_a_problem(text: str, expected: str) -> None:
    assert expected in describe_problem(text)


@pytest.mark.parametrize("text", ["x" * MAX_QUERY_CHARS, "?!...", " soup "])
def test_text_that_can_be_a_query_has_no_problem(text: str) -> None:
    assert describe_problem(text) == ""
