"""A valid call of every REST route."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call; `template` is the route's path as the API page shows it."""

    method: str
    template: str
    path: str = ""
    json: Any = None
    query: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        variant = "".join(sorted(self.json or {}) if self.template == "/classify" else [])
        return f"{self.method} {self.template} {variant}".strip()

    @property
    def arguments(self) -> dict[str, Any]:
        """What httpx's `request` takes."""
        return {
            "method": self.method, "url": self.path or self.template, "params": self.query,
            **({} if self.json is None else {"json": self.json}),
        }  # fmt: skip


CALLS = (
    Call("POST", "/enhanced-recommend", json={"text_input": "soup"}),
    Call("POST", "/classify", json={"text": "soup"}),
    Call("POST", "/classify", json={"text": "soup", "explain": True}),
    Call("POST", "/classify", json={"texts": ["soup"]}),
    Call("POST", "/feedback", json={"query_id": "q1", "labels": ["a"]}),
    Call("GET", "/review"),
    Call("POST", "/review/{item_id}", "/review/i1", json={"dismiss": True}),
    Call("POST", "/examples/import", json={"text": "soup", "labels": ["a"]}),
    Call("GET", "/examples/export"),
    Call("DELETE", "/users/{user_id}/data", "/users/anna/data"),
    Call("POST", "/retrain", json={}),
    Call("GET", "/retrain/status"),
    Call("GET", "/retrain/runs"),
    Call("GET", "/retrain/runs/{run_id}", "/retrain/runs/run-1"),
    Call("GET", "/retrain/metrics"),
    Call("GET", "/retrain/versions"),
    Call("GET", "/retrain/history"),
    Call("POST", "/retrain/rollback", json={}),
    Call("POST", "/retrain/deploy", json={"version": 2}),
    Call("GET", "/model/status"),
    Call("GET", "/logging/stats"),
    Call("POST", "/retrain/abtest/start", json={"kind": "shadow", "version": 2}),
    Call("GET", "/retrain/abtest/status"),
    Call("POST", "/retrain/abtest/stop", json={}),
    Call("POST", "/scheduler/start", json={"kind": "weekly"}),
    Call("POST", "/scheduler/stop"),
    Call("GET", "/scheduler/status"),
    Call("GET", "/livez"),
    Call("GET", "/readyz"),
    Call("GET", "/health"),
)
