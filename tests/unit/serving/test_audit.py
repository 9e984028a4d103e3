"""The random audit: drawn by a secret, its chance recorded, and what stands on it unbiased."""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ledger.events import EventKind, to_ground_truth, to_review_task
from moderation.auditing import is_drawn
from moderation.errors import SettingsError
from serving.gateway.audit import RandomAudit, audit_salt
from serving.gateway.gate import UploadGate
from tests.decided import a_decision
from tests.unit.serving.fakes import NOON, FakePredictor, an_upload
from tests.unit.serving.guarded import audit_rules, guard

REVIEWER = {"Authorization": "Bearer r3view"}
SHARES = {"allow": 0.02, "tag": 0.1, "review": 0.2, "block": 0.25, "suspend": 1.0}


async def _decide(client: httpx.AsyncClient) -> Any:
    return (await client.post("/v1/decisions", json=an_upload())).json()


async def _state(client: httpx.AsyncClient, submission_id: str, **changes: Any) -> httpx.Response:
    body = {
        "ground_truth_id": f"t-{submission_id}",
        "submission_id": submission_id,
        "policy": "weapons",
        "violates": True,
        "source": "audit",
    }
    return await client.post("/v1/ground-truth", json=body | changes, headers=REVIEWER)


def test_draw_is_the_same_again_and_another_under_another_salt() -> None:
    ids = [f"s{number}" for number in range(20_000)]
    first, second = ([is_drawn(one, 0.1, salt) for one in ids] for salt in (b"a" * 32, b"b" * 32))
    assert first == [is_drawn(one, 0.1, b"a" * 32) for one in ids]
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert sum(first) == pytest.approx(2_000, abs=5 * 42)
    assert both == pytest.approx(200, abs=5 * 14)
    assert not any(is_drawn(one, 0.0, b"a" * 32) for one in ids)
    assert all(is_drawn(one, 1.0, b"a" * 32) for one in ids)


@pytest.mark.parametrize("probability_P", [[0.0] * 3, [0.2, 0.0, 0.0], [0.95, 0.0, 0.0]])
async def test_chance_is_recorded_drawn_or_not(
    client: httpx.AsyncClient,
    gate: UploadGate,
    predictor: FakePredictor,
    tmp_path: Path,
    probability_P: list[float],
) -> None:
    predictor.probability_P = probability_P
    rules = audit_rules(allow=0.3, tag=0.4, block=0.5)
    guard(gate, tmp_path, audit=rules)
    salt = audit_salt(tmp_path / "audit.salt")
    drawn = set()
    for _ in range(12):
        answer = await _decide(client)
        decision = gate.ledger.get_decision(answer["trace_id"])
        assert decision is not None
        assert decision.audit_probability == rules.chance_of(decision.tier)
        if is_drawn(decision.submission_id, decision.audit_probability, salt):
            drawn.add(decision.submission_id)
    tasks = [to_review_task(s.event) for s in gate.ledger.read([EventKind.REVIEW_TASK])]
    assert {task.submission_id for task in tasks} == drawn
    assert {(task.reason, task.priority) for task in tasks} <= {("AUDIT", "low")}


async def test_nothing_is_drawn_when_the_contract_has_no_audit(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    guard(gate, tmp_path)
    decision = gate.ledger.get_decision((await _decide(client))["trace_id"])
    assert decision is not None
    assert decision.audit_probability == 0.0
    assert gate.ledger.last_sequence([EventKind.REVIEW_TASK]) == 0


async def _drawn_and_not(client: httpx.AsyncClient, gate: UploadGate) -> tuple[str, str]:
    found: dict[bool, str] = {}
    while len(found) < 2:
        answer = await _decide(client)
        task = f"review_task:{answer['decision_id']}:audit"
        found[gate.ledger.get_event(task) is not None] = answer["submission_id"]
    return found[True], found[False]


async def test_truth_of_an_audit_takes_its_chance_from_the_ledger(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    guard(gate, tmp_path, audit=audit_rules(allow=0.5))
    drawn, other = await _drawn_and_not(client, gate)
    lie = await _state(client, drawn, propensity=0.9)
    assert (lie.status_code, "drawn with 0.5" in lie.json()["message"]) == (400, True)
    as_review = await _state(client, drawn, source="review")
    assert (as_review.status_code, "send audit" in as_review.json()["message"]) == (400, True)
    not_drawn = await _state(client, other, propensity=0.5)
    assert (not_drawn.status_code, "no audit drew" in not_drawn.json()["message"]) == (400, True)
    assert (await _state(client, drawn)).status_code == 200
    assert (await _state(client, other, source="review")).status_code == 200
    stored = [to_ground_truth(s.event) for s in gate.ledger.read([EventKind.GROUND_TRUTH])]
    assert [(t.source, t.propensity) for t in stored] == [("audit", 0.5), ("review", 1.0)]
    assert (await _state(client, drawn)).json()["recorded"] is False


async def test_review_of_what_was_reviewed_anyway_is_no_audit(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, audit=audit_rules(review=1.0))
    predictor.probability_P = [0.6, 0.0, 0.0]
    submission_id = (await _decide(client))["submission_id"]
    tasks = [to_review_task(s.event) for s in gate.ledger.read([EventKind.REVIEW_TASK])]
    assert sorted(task.reason for task in tasks) == ["AUDIT", "WEAPONS_PROHIBITED"]
    assert (await _state(client, submission_id, source="review")).status_code == 200


def test_salt_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "audit.salt"
    assert audit_salt(path) == audit_salt(path)
    assert path.stat().st_mode & 0o077 == 0
    assert [one.name for one in path.parent.iterdir()] == ["audit.salt"]
    path.write_text("abcd")
    with pytest.raises(SettingsError, match="damaged"):
        audit_salt(path)


def test_estimate_from_the_audit_is_unbiased() -> None:
    """Horvitz and Thompson (1952): each drawn violation counts as one over its recorded chance."""
    rng, num = np.random.default_rng(3), 2_000
    tiers = rng.choice(list(SHARES), num, p=[0.90, 0.05, 0.03, 0.015, 0.005])
    rates = {"allow": 0.01, "tag": 0.1, "review": 0.4, "block": 0.95, "suspend": 0.99}
    violates = [bool(rng.random() < rates[tier]) for tier in tiers]
    truth = sum(violates) / num
    decisions = [a_decision(f"s{n}", NOON, tier=str(tier)) for n, tier in enumerate(tiers)]
    settler = RandomAudit(audit_rules(**SHARES), b"")
    settled = [settler.settle(one) for one in decisions]
    estimates, plain = [], []
    for world in range(100):
        audit = RandomAudit(audit_rules(**SHARES), world.to_bytes(32, "big"))
        drawn = [n for n, one in enumerate(settled) if audit.task(one) is not None]
        estimates.append(sum(violates[n] / settled[n].audit_probability for n in drawn) / num)
        plain.append(sum(violates[n] for n in drawn) / len(drawn))
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 3.5 * error
    assert error < 0.15 * truth
    assert np.mean(plain) > 3 * truth, "counting what was drawn as it is would be far off"
    assert Counter(tiers)["allow"] > 1_700
