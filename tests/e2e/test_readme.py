"""What a user copies works: the README's curl and grpcurl lines, and the script that checks a running system."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.system import System, free_ports

DEFAULT_PORTS = {"gateway": "8000", "inference": "50051", "trainer": "50052"}


def test_every_line_of_the_readme_works_as_printed(live: System) -> None:
    lines = re.findall(r"^(?:curl|grpcurl) .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 8
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        command = line
        for service, port in DEFAULT_PORTS.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{live.ports[service]}")
        finished = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert finished.returncode == 0, (line, finished.stderr)
        decoder, text, documents = json.JSONDecoder(), finished.stdout.strip(), []
        while text:
            document, end = decoder.raw_decode(text)
            documents.append(document)
            text = text[end:].strip()
        assert documents, line
        assert all("title" not in document for document in documents), (line, documents)


def check(url: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "scripts/test_api_integration.py", "--url", url],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_integration_script_passes_where_everything_works(live: System) -> None:
    finished = check(live.url)
    assert (finished.returncode, finished.stdout.splitlines()[-1]) == (0, "4 of 4 checks passed"), finished.stdout


def test_integration_script_fails_where_nothing_runs() -> None:
    finished = check(f"http://127.0.0.1:{free_ports(1)[0]}")
    assert finished.returncode == 1
    assert finished.stdout.count("FAIL") == 4
