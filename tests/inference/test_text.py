import pytest

from services.inference.errors import InvalidQuery
from services.inference.text import MAX_QUERY_CHARS, check_query, normalise


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


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "a\0b", "x" * (MAX_QUERY_CHARS + 1), "half \ud800"])
def test_text_that_cannot_be_a_query_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(InvalidQuery) as refusal:
        check_query(text, "texts[3]")
    assert refusal.value.field == "texts[3]"


def test_longest_allowed_query_passes() -> None:
    check_query("x" * MAX_QUERY_CHARS)
