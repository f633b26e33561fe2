"""What people typed is shown as it is, and steers no terminal."""

import json

import pytest
import typer

from services.cli.output import fail, harmless, print_facts, print_json, print_line, print_table

ATTACKS = (
    "[/red] I want soup",
    "[link=http://evil]soup[/link]",
    ":pizza: please",
    "\x1b]0;owned\x07 title",
    "\x1b[2Jclear",
    "\x9b31mred",
    "two\nlines\r",
    "\u202eturned",
    "\ud800 alone",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_query_text_is_shown_in_tables_and_facts_as_it_was_typed(
    attack: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_table((attack, "item"), [(attack, 0.5)])
    print_facts({"text": attack})
    print_line(attack)
    shown = capsys.readouterr().out
    assert shown.count(harmless(attack)) == 4
    assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(shown)


@pytest.mark.parametrize("attack", ATTACKS)
def test_json_output_keeps_the_text_and_steers_no_terminal(attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": attack})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"text": attack}
    assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(shown)


def test_narrow_terminal_cuts_nothing_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("item", "text"), [("d28ccd1e6f0a1b2c", "word " * 20)])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert shown.count("word") == 20


def test_other_writing_is_not_touched() -> None:
    assert harmless("Grüße 北京 👩‍🍳 שלום é") == "Grüße 北京 👩‍🍳 שלום é"


def test_a_failure_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail("no\nsoup \x1b[31m")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "moodfood: no\\u000asoup \\u001b[31m\n"
