import pytest

from services.trainer.evaluation.slices import script_of, slices_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("soup", ("length: 1 to 2 words", "script: latin", "source: seed")),
        ("хочу горячего супа", ("length: 3 to 6 words", "script: cyrillic", "source: seed")),
        ("温かいスープ", ("length: 1 to 2 words", "script: hiragana", "source: seed")),
        ("1 2 3 4 5 6 7", ("length: 7 to 14 words", "script: none", "source: seed")),
        ("so " * 15, ("length: 15 words or more", "script: latin", "source: seed")),
    ],
)
def test_text_has_a_slice_of_each_kind(text: str, expected: tuple[str, ...]) -> None:
    assert expected == slices_of(text, "seed")


@pytest.mark.parametrize(
    ("text", "expected"), [("суп or soup please", "latin"), ("суп, soup, каша", "cyrillic"), ("🍕", "none")]
)
def test_script_is_that_of_most_letters(text: str, expected: str) -> None:
    assert expected == script_of(text)
