"""Check a running MoodFood through REST: status, model status, recommendation, retraining. Exits 1 if any fails.

Needs nothing but Python. The gateway's address comes from --url or from MOODFOOD_HOST and MOODFOOD_GATEWAY_PORT.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

TIMEOUT_SECONDS = 15
RETRAIN_SECONDS = 120


class CheckFailed(Exception):
    """A check did not find what it should; the text says what it found."""


def call(url: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Send GET, or POST when there is a body, and return status and JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except urllib.error.URLError as error:
        raise CheckFailed(f"{url} cannot be reached: {error.reason}") from error


def expect(found: object, condition: bool, wanted: str) -> None:
    """Raise CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(f"expected {wanted}, got {json.dumps(found)[:300]}")


def check_status(url: str) -> str:
    """The retraining status has every field that callers depend on."""
    code, answer = call(url, "/retrain/status")
    expect(answer, code == 200 and answer.get("status") == "ok", "200 with status ok")
    state = answer["retrain_status"]
    for field in ("last_retrain", "next_retrain_recommended", "logged_data_status", "model_status", "recommendations"):
        expect(state, field in state, f"the field {field}")
    return str(state["next_retrain_recommended"])


def check_model_status(url: str) -> str:
    """A model is loaded."""
    code, answer = call(url, "/health")
    expect(answer, code == 200, "200 from /health")
    classifier = answer["enhanced_classifier"]
    expect(classifier, classifier["ml_classifier_loaded"] is True, "a loaded classifier")
    return f"{classifier['ml_labels_count']} labels"


def check_recommendation(url: str) -> str:
    """A vegan who wants comfort food gets vegan dishes only."""
    body = {"text_input": "I want comfort food", "user_context": {"dietary_restrictions": ["vegan"]}}
    code, answer = call(url, "/enhanced-recommend", body)
    expect(answer, code == 200 and bool(answer.get("primary_intent")), "200 with a primary intent")
    dishes = answer["recommendations"]
    expect(dishes, bool(dishes) and all("vegan" in dish["diets"] for dish in dishes), "vegan dishes")
    return f"{answer['primary_intent']} -> {dishes[0]['food_name']}"


def check_retraining(url: str) -> str:
    """A run starts, or one is going on already, and it ends with a verdict."""
    code, answer = call(url, "/retrain", {"trigger": "manual", "validate_only": True})
    expect(answer, code in {200, 409}, "200, or 409 while a run is going on")
    run_id = answer["operation"].removeprefix("operations/")
    deadline = time.monotonic() + RETRAIN_SECONDS
    while time.monotonic() < deadline:
        code, run = call(url, f"/retrain/runs/{run_id}")
        expect(run, code == 200, "the run")
        if run["state"] != "running":
            expect(run, run["state"] in {"succeeded", "rejected"}, "a run that ends with a verdict")
            return f"{run['state']} at version {run['version']}"
        time.sleep(0.5)
    raise CheckFailed(f"the run {run_id} did not end within {RETRAIN_SECONDS} s")


CHECKS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("status", check_status),
    ("model status", check_model_status),
    ("recommendation", check_recommendation),
    ("retraining", check_retraining),
)


def main() -> int:
    """Run every check and return the exit status."""
    host, port = os.environ.get("MOODFOOD_HOST", "127.0.0.1"), os.environ.get("MOODFOOD_GATEWAY_PORT", "8000")
    local = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=local, help="address of the gateway")
    url = parser.parse_args().url.rstrip("/")
    failures = 0
    for name, check in CHECKS:
        try:
            print(f"PASS {name}: {check(url)}")
        except (CheckFailed, KeyError, TypeError, ValueError) as error:
            failures += 1
            print(f"FAIL {name}: {error}")
    print(f"{len(CHECKS) - failures} of {len(CHECKS)} checks passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
