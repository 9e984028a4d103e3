"""A gateway that is killed while it spills: whoever was answered is in the ledger exactly once after a restart."""

import os
import signal
import threading
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from ledger.events import EventKind, to_decision
from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from serving.process import ServingProcess, start_gateway
from tests.small_disk import held

HEADERS = {"Authorization": "Bearer t"}
PATIENCE_S = 60.0


def _upload(name: str) -> dict[str, object]:
    listing = {"listing_id": f"l-{name}", "seller_id": "seller-1", "title": f"Chair {name}"}
    return {"submission_id": name, "listing": listing}


def _send_until_it_dies(gateway: ServingProcess, thread: int, answered: dict[str, str]) -> None:
    with httpx.Client(base_url=gateway.url, headers=HEADERS, timeout=10) as client:
        for number in range(10_000):
            name = f"u{thread}-{number}"
            try:
                answer = client.post("/v1/decisions", json=_upload(name))
            except httpx.HTTPError:
                return
            assert answer.status_code == 200, answer.text
            assert "ledger: spilled" in answer.json()["evidence"]["degraded"]
            answered[name] = answer.json()["decision_id"]


def test_a_killed_gateway_loses_no_decision(tmp_path: Path) -> None:
    environment = {
        "TIDEGATE__HOME": str(tmp_path / "home"),
        "TIDEGATE__GATEWAY_TOKENS": "a:admin:t",
        "TIDEGATE__SPILL_FOLDER": str(tmp_path / "spill"),
    }
    path, answered, clock = tmp_path / "home" / "ledger.sqlite", dict[str, str](), SystemClock()

    def started() -> AbstractContextManager[ServingProcess]:
        return start_gateway(
            routing=tmp_path / "routing.json", log_folder=tmp_path / "logs", environment=environment
        )

    with started() as gateway:
        first = httpx.post(f"{gateway.url}/v1/decisions", json=_upload("u"), headers=HEADERS)
        answered["u"] = first.json()["decision_id"]
        with held(path):
            threads = [
                threading.Thread(target=_send_until_it_dies, args=(gateway, number, answered))
                for number in range(4)
            ]
            for thread in threads:
                thread.start()
            deadline = clock.monotonic() + PATIENCE_S
            while len(answered) < 60:
                assert clock.monotonic() < deadline, len(answered)
                threading.Event().wait(0.01)
            os.kill(gateway.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(PATIENCE_S)
    assert list((tmp_path / "spill").glob("*.spill"))
    with started() as gateway:
        deadline = clock.monotonic() + PATIENCE_S
        while httpx.get(f"{gateway.url}/readyz").json()["checks"]["spill"] != "ok":
            assert clock.monotonic() < deadline
            threading.Event().wait(0.1)
    stored = [one.event for one in SqliteLedger(path).read([EventKind.DECISION])]
    assert set(Counter(event.submission_id for event in stored).values()) == {1}
    kept = {event.submission_id: to_decision(event).decision_id for event in stored}
    assert {name: kept.get(name) for name in answered} == answered
    assert list((tmp_path / "spill").iterdir()) == []
