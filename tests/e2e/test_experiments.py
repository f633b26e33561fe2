"""An experiment on a running system: callers stay on their side, restarts do not end it, the winner is promoted."""

import json
import urllib.request

import pytest

from tests.system import System, eventually

pytestmark = pytest.mark.timeout(240)


def version_for(live: System, caller: str, text: str = "chocolate please") -> tuple[int, str]:
    request = urllib.request.Request(
        live.url + "/classify",
        data=json.dumps({"text": text}).encode(),
        headers={"content-type": "application/json", "x-caller-key": caller},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        body = json.load(answer)
    return int(body["model_version"]), str(body["query_id"])


def test_canary_from_start_to_promotion_across_restarts(live: System) -> None:
    code, started = live.call("/retrain/abtest/start", {"kind": "canary", "version": 2, "share": 0.5, "by": "anna"})
    assert (code, started["status"]) == (200, "started"), started
    assert live.call("/retrain/abtest/start", {"kind": "shadow", "version": 2})[0] == 409
    callers = [f"caller {n}" for n in range(20)]

    def sides() -> dict[str, int]:
        return {caller: version_for(live, caller)[0] for caller in callers}

    eventually(lambda: set(sides().values()) == {1, 2}, "both sides answering", 15)
    before = sides()
    assert 3 <= sum(version == 2 for version in before.values()) <= 17

    live.kill("inference")
    live.kill("trainer")
    live.start("inference")
    live.start("trainer")
    eventually(live.ready, "inference and trainer back again")
    eventually(lambda: sides() == before, "every caller on the side it was on", 15)

    given = [caller for caller in callers if before[caller] == 2]
    for n in range(40):
        _, query_id = version_for(live, given[n % len(given)], f"chocolate cake number {n}")
        assert live.call("/feedback", {"query_id": query_id, "labels": ["flavor_chocolate"]})[0] == 201
    result = eventually(
        lambda: (seen := live.call("/retrain/abtest/status")[1]["experiment"]["result"])["judged"] >= 40 and seen,
        "the feedback in the result",
        15,
    )
    assert result["agreement"] == 1.0
    assert result["errors"] == 0
    code, stopped = live.call("/retrain/abtest/stop", {"promote": True, "by": "anna", "reason": "good enough"})
    assert (code, stopped["status"]) == (200, "promoted"), stopped["experiment"]["result"]["decision"]
    assert live.version() == 2
    assert {version_for(live, caller)[0] for caller in callers} == {2}
    newest = live.call("/retrain/history")[1]["history"][0]
    assert "won experiment" in newest["reason"]
    assert live.call("/retrain/abtest/stop", {})[0] == 409
    assert live.call("/retrain/abtest/status")[1]["status"] == "none"
