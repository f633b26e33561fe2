"""The script that has cron ask for a retrain, with a crontab command that keeps its table in a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CRONTAB = """#!/bin/sh
table="$FAKE_CRONTAB"
if [ "$1" != "-l" ]; then cat > "$table"
elif [ -n "$CRONTAB_FAILS" ]; then echo "crontab: $CRONTAB_FAILS" >&2; exit 1
elif [ -e "$table" ]; then cat "$table"
else echo "no crontab for me" >&2; exit 1; fi
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab command that keeps its table in a file."""
    command = tmp_path / "bin" / "crontab"
    command.parent.mkdir()
    command.write_text(CRONTAB)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_CRONTAB", str(tmp_path / "table"))
    monkeypatch.setenv("MOODFOOD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "table"


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/setup_cron_retraining.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_line_is_installed_replaced_shown_and_removed_and_others_stay(table: Path) -> None:
    table.write_text("5 4 * * * backup\n")
    assert script("--status").returncode == 1
    assert script("--setup").returncode == 0
    assert script("--setup", "--hour", "22", "--minute", "15", "--day", "friday").returncode == 0
    backup, ours = table.read_text().splitlines()
    assert ours.startswith("15 22 * * 5 curl ")
    assert '"trigger": "cron_triggered"' in ours
    assert "/retrain" in ours
    assert ours in script("--status").stdout
    assert script("--remove").returncode == 0
    assert (backup, "5 4 * * * backup\n") == ("5 4 * * * backup", table.read_text())


@pytest.mark.parametrize("action", ["--setup", "--remove", "--status"])
def test_a_crontab_that_cannot_be_read_is_not_replaced(
    table: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    table.write_text("5 4 * * * backup\n")
    monkeypatch.setenv("CRONTAB_FAILS", "you are not allowed to use this program")
    refused = script(action)
    assert (refused.returncode, table.read_text()) == (1, "5 4 * * * backup\n")
    (line,) = refused.stderr.splitlines()
    assert "not allowed to use this program" in line


def test_the_first_line_of_an_empty_crontab_is_ours(table: Path) -> None:
    assert script("--setup").returncode == 0
    (line,) = table.read_text().splitlines()
    assert "curl" in line


@pytest.mark.parametrize("bad", [["--hour", "24"], ["--minute", "60"], ["--day", "someday"], ["--hour", "x"]])
def test_impossible_time_is_refused_and_nothing_is_written(table: Path, bad: list[str]) -> None:
    assert script("--setup", *bad).returncode == 2
    assert not table.exists()
