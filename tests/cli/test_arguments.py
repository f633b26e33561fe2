import pytest

from services.cli.arguments import repeated


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("train --examples a --models m", "train --examples a --models m"),
        ("train --examples a b c --models m x", "train --examples a --examples b --examples c --models m x"),
        ("evaluate --examples a b --json", "evaluate --examples a --examples b --json"),
        ("evaluate --examples=a b --version 2", "evaluate --examples=a --examples b --version 2"),
        ("x --examples a b -n --examples c d", "x --examples a --examples b -n --examples c --examples d"),
        ("classify a b --top-k 3", "classify a b --top-k 3"),
    ],
)  # fmt: skip
def test_several_files_may_follow_one_option_and_end_at_the_next(written: str, understood: str) -> None:
    assert repeated(written.split()) == understood.split()
