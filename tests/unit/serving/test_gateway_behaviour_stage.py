"""The behaviour stage in a running gateway: it lets go, unless a stage raises something, and says who was drawn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from featurestore.online import BehaviourRead
from moderation.behaviour_prefilter import Prefilter, digest_of
from moderation.decision import Decision, replay
from moderation.listing import Submission
from moderation.prefilter import Incoming
from moderation.prefilter_audit import random_draw
from moderation.stage_1 import StageSignal
from serving.gateway.gate import UploadGate
from tests.prefiltered import RULES, behaviours, evidence, prefilter
from tests.unit.serving.conftest import a_cascade
from tests.unit.serving.fakes import FakePredictor, a_release, an_upload

CALM, BUSY = behaviours(2)


class KnownSeller:
    """A reader that gives the same behaviour for everybody."""

    def __init__(self, values_F: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        self.values_F = values_F

    def read(self, submission: Submission) -> BehaviourRead:
        at = submission.submitted_at
        return BehaviourRead(self.values_F, at, at, 0.0, (), ())

    def close(self) -> None:
        return


@pytest.fixture(scope="module")
def opened() -> Prefilter:
    return prefilter()


@pytest.fixture
async def served(
    gate: UploadGate, client: httpx.AsyncClient, predictor: FakePredictor, opened: Prefilter
) -> httpx.AsyncClient:
    """A gateway whose release has a prefilter, fetched by its first upload."""
    await _serve(gate, client, predictor, opened)
    return client


async def _serve(
    gate: UploadGate, client: httpx.AsyncClient, predictor: FakePredictor, found: Prefilter
) -> None:
    predictor.prefilter = found.to_bytes()
    predictor.release = a_release(prefilter=digest_of(predictor.prefilter))
    gate.behaviour._reader = KnownSeller(CALM)
    first = await _decided(gate, client, "first")
    assert _signal(first).reason == "not fetched yet"
    await gate.cascade.behaviour.ready()
    predictor.requests.clear()


async def _decided(
    gate: UploadGate, client: httpx.AsyncClient, submission_id: str, **changes: Any
) -> Decision:
    response = await client.post(
        "/v1/decisions", json=an_upload(submission_id=submission_id, **changes)
    )
    assert response.status_code == 200, response.text
    decision = gate.ledger.get_decision(response.json()["trace_id"])
    assert decision is not None
    assert replay(decision, gate.policies) == (decision.tier, decision.reason_codes)
    return decision


def _signal(decision: Decision) -> StageSignal:
    assert decision.stage_1 is not None
    (found,) = [one for one in decision.stage_1.signals if one.name == "behaviour"]
    return found


def _named(*, drawn: bool) -> str:
    names = (f"upload-{number}" for number in range(100_000))
    return next(
        name for name in names if (random_draw(name, RULES.salt) < RULES.random_share) is drawn
    )


async def test_a_calm_seller_passes_without_the_predictor(
    gate: UploadGate, served: httpx.AsyncClient, predictor: FakePredictor
) -> None:
    decision = await _decided(gate, served, _named(drawn=False))
    assert (decision.tier, decision.attempts) == ("allow", ())
    assert not predictor.requests
    signal = _signal(decision)
    assert (signal.is_decisive, signal.version) == (True, digest_of(predictor.prefilter))


async def test_a_drawn_upload_is_scored_and_says_by_which_chance(
    gate: UploadGate, served: httpx.AsyncClient, predictor: FakePredictor
) -> None:
    decision = await _decided(gate, served, _named(drawn=True))
    assert len(predictor.requests) == len(decision.attempts) == 1
    assert _signal(decision).found == ({"random_share": RULES.random_share, "was_random": 1},)


async def test_a_busy_seller_is_scored(
    gate: UploadGate, served: httpx.AsyncClient, predictor: FakePredictor
) -> None:
    gate.behaviour._reader = KnownSeller(BUSY)
    decision = await _decided(gate, served, _named(drawn=False))
    assert len(decision.attempts) == 1
    assert not _signal(decision).is_decisive


async def test_what_another_stage_raises_is_not_let_go(
    gate: UploadGate, served: httpx.AsyncClient
) -> None:
    listing = {"listing_id": "l1", "seller_id": "seller-1", "title": "watch, western union only"}
    decision = await _decided(gate, served, _named(drawn=False), listing=listing)
    assert decision.tier != "allow"
    assert decision.stage_1 is not None
    assert decision.stage_1.tier != "allow"


class Broken:
    """A stage whose disk is gone."""

    name, cost = "banks", 20.0

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        raise OSError("no disk")


async def test_nobody_is_let_go_while_a_stage_fails(
    gate: UploadGate,
    client: httpx.AsyncClient,
    predictor: FakePredictor,
    opened: Prefilter,
    tmp_path: Path,
) -> None:
    gate.cascade = a_cascade(tmp_path, gate.ledger, gate.clock, more=[Broken()])
    await _serve(gate, client, predictor, opened)
    decision = await _decided(gate, client, _named(drawn=False))
    assert (decision.decided_by, len(decision.attempts), len(predictor.requests)) == ("model", 1, 1)
    assert "banks failed" in _signal(decision).reason
    assert any("no disk" in said for said in decision.degraded)


async def test_a_closed_prefilter_asks_the_predictor_about_everything(
    gate: UploadGate, client: httpx.AsyncClient, predictor: FakePredictor, opened: Prefilter
) -> None:
    await _serve(gate, client, predictor, replace(opened, evidence=evidence(None)))
    decision = await _decided(gate, client, _named(drawn=False))
    assert len(decision.attempts) == 1
    assert "closed" in _signal(decision).reason
