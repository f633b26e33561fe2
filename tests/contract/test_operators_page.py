"""What operators search their logs for: the page quotes the messages that the services write."""

import re

from tests.conftest import ROOT


def test_every_log_message_on_the_page_is_one_that_the_services_write() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page.split("These are the ones to know:", 1)[1].split("\n\n", 2)[1]
    quoted = [message for row in table.splitlines()[2:] for message in re.findall(r"`([^`=]+)`", row.split("|")[1])]
    assert len(quoted) >= 10
    code = "".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    assert [message for message in quoted if f'"{message}"' not in code] == []
