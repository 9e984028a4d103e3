"""What stage 1 and repeated answers enforce counts towards the quotas, is held by a stop, and is no release's doing."""

from pathlib import Path

import httpx
import pytest

from ledger.ledger import SqliteLedger
from moderation.bank_versions import BankVersions
from moderation.clock import SystemClock
from moderation.decision import Decision, replay
from moderation.image import pdq
from serving.gateway.gate import UploadGate
from tests.bank_world import entries_file, entry
from tests.kept import SERVING
from tests.pictures import a_picture, encoded
from tests.unit.serving.conftest import POLICIES, a_cascade
from tests.unit.serving.fakes import FakePredictor, an_upload, as_text
from tests.unit.serving.guarded import breaker_rules, guard, quota_rules

BAD = a_picture(1)


@pytest.fixture
def known(tmp_path: Path, gate: UploadGate) -> None:
    """A bank that knows one image."""
    versions = BankVersions(tmp_path / "banks", SystemClock())
    rows = entries_file(tmp_path / "entries.jsonl", [entry("gun-1", pdq(BAD)[0])])
    versions.activate(versions.build(rows, POLICIES.ids))
    gate.cascade.refresh()


async def _decided(client: httpx.AsyncClient, gate: UploadGate, *images: bytes) -> Decision:
    upload = an_upload(images=[as_text(image) for image in images])
    response = await client.post("/v1/decisions", json=upload)
    assert response.status_code == 200, response.text
    decision = gate.ledger.get_decision(response.json()["trace_id"])
    assert decision is not None
    return decision


@pytest.mark.usefixtures("known")
async def test_blocks_of_stage_1_use_up_the_quota_and_are_held_by_the_stop(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, enforcement_quotas=quota_rules(per_policy_per_hour=2))
    decisions = [await _decided(client, gate, encoded(BAD, "PNG")) for _ in range(3)]
    assert [one.tier for one in decisions] == ["block", "block", "review"]
    assert [one.decided_by for one in decisions] == ["stage_1"] * 3
    held = decisions[-1]
    assert held.enforcement == "stopped"
    assert any("block goes to review" in part for part in held.degraded)
    assert replay(held, gate.policies) == (held.tier, held.reason_codes)
    assert predictor.requests == []


@pytest.mark.usefixtures("known")
async def test_what_stage_1_blocks_says_nothing_of_a_release(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules(least_listings=3, least_flags=1))
    decisions = [await _decided(client, gate, encoded(BAD, "PNG")) for _ in range(8)]
    assert {one.tier for one in decisions} == {"block"}


async def test_a_repeated_block_counts_towards_the_quota(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    rules = SERVING.stage_1.duplicates
    gate.cascade = a_cascade(tmp_path, ledger, gate.clock, duplicates=rules)
    guard(gate, tmp_path, enforcement_quotas=quota_rules(per_policy_per_hour=2))
    predictor.probability_P = [0.95, 0.0, 0.0]
    decisions = [await _decided(client, gate) for _ in range(3)]
    assert [one.decided_by for one in decisions] == ["model", "duplicate", "duplicate"]
    assert [one.tier for one in decisions] == ["block", "block", "review"]
