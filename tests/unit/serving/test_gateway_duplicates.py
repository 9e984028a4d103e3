"""Repeated uploads: the earlier answer again, a few times; never where something was missing of it or came since."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from ledger.events import EventKind
from ledger.ledger import SqliteLedger
from ledger.recorded import answer_of, behaviour_of
from moderation.clock import SystemClock
from moderation.decision import Decision, replay
from moderation.prefilter import Incoming
from moderation.stage_1 import StageSignal
from serving.gateway.auth import Role
from serving.gateway.gate import UploadGate
from serving.gateway.requests import ReversalRequest
from serving.gateway.truth import record_reversal
from serving.replay import replay_decision
from serving.routing import Route, Router, RoutingTable, write_table
from tests.kept import SERVING, a_keeper
from tests.pictures import a_picture, encoded
from tests.unit.serving.conftest import a_cascade
from tests.unit.serving.fakes import BUNDLE, FakePredictor, an_upload, as_text
from tests.unit.serving.test_replay import FakeScorer
from tidegate.erasing import belonging

REVIEWER = {"Authorization": "Bearer r3view"}
RULES = SERVING.stage_1.duplicates
MAX_REPEATS = RULES.max_repeats


class LetsGoOnce:
    """A stage that lets the first upload go."""

    name, cost = "behaviour", 0.2

    def __init__(self) -> None:
        self._is_first = True

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        is_first, self._is_first = self._is_first, False
        return [StageSignal(name=self.name, status="ok", is_decisive=is_first)]


@pytest.fixture
async def gate(gate: UploadGate, tmp_path: Path) -> UploadGate:
    """The gate with the contract's own rules of duplicates."""
    gate.cascade = a_cascade(tmp_path, gate.ledger, gate.clock, duplicates=RULES)
    return gate


def _upload(number: int, **changes: Any) -> dict[str, Any]:
    listing = {"listing_id": f"l{number}", "seller_id": "seller-1", "title": "Blue bicycle"}
    return an_upload(listing=listing, submission_id=f"u{number}") | changes


async def _decided(
    client: httpx.AsyncClient, gate: UploadGate, number: int, **changes: Any
) -> Decision:
    response = await client.post("/v1/decisions", json=_upload(number, **changes))
    assert response.status_code == 200, response.text
    assert "evidence" not in response.json()
    decision = gate.ledger.get_decision(response.json()["trace_id"])
    assert decision is not None
    assert replay(decision, gate.policies) == (decision.tier, decision.reason_codes)
    return decision


def _said(decision: Decision) -> StageSignal:
    assert decision.stage_1 is not None
    [signal] = [one for one in decision.stage_1.signals if one.name == "duplicates"]
    return signal


async def test_the_same_upload_gets_the_earlier_answer(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    predictor.probability_P = [0.6, 0.02, 0.03]
    first = await _decided(client, gate, 1)
    again = await _decided(client, gate, 2)
    assert len(predictor.requests) == 1
    assert (first.decided_by, again.decided_by) == ("model", "duplicate")
    assert (again.tier, again.reason_codes) == ("review", ("WEAPONS_PROHIBITED",))
    assert again.duplicate_of is not None
    assert again.duplicate_of.decision_id == first.decision_id
    assert (again.decision_id, again.trace_id) != (first.decision_id, first.trace_id)
    assert (again.attempts, again.versions) == (first.attempts, first.versions)
    assert answer_of(again) == answer_of(first)
    assert again.input_digests["listing"] != first.input_digests["listing"]
    assert _said(again).found == ({"decision": first.decision_id},)
    assert _said(again).reason == "repeated"
    tasks = [stored.event.submission_id for stored in gate.ledger.read([EventKind.REVIEW_TASK])]
    assert tasks == ["u1", "u2"]


async def test_a_duplicate_replays_from_what_it_recorded(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    await _decided(client, gate, 1)
    again = await _decided(client, gate, 2, images=an_upload()["images"])
    assert again.decided_by == "duplicate"
    scorer = FakeScorer(predictor.probability_P, predictor.probability_P)
    report = replay_decision(
        again.trace_id, gate.ledger, store=gate.store, scorer=scorer, policies=gate.policies
    )
    assert (report.is_exact, report.max_error, report.release) == (True, 0.0, BUNDLE)
    asked = predictor.requests[0]
    values_F, _ = behaviour_of(again)
    names = [one.name for one in asked.inputs]
    sent = np.frombuffer(asked.raw_input_contents[names.index("behaviour")], np.float32)
    assert values_F.tolist() == sent.tolist(), "the features are those that the answer used"


async def test_the_model_is_asked_again_after_a_few(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    by = [(await _decided(client, gate, number)).decided_by for number in range(MAX_REPEATS + 3)]
    assert by == ["model", *["duplicate"] * MAX_REPEATS, "model", "duplicate"]
    last = gate.ledger.get_decision_of(f"u{MAX_REPEATS + 1}")
    assert last is not None
    counts = {feature.name: feature.value for feature in last.features}
    assert counts["submissions_1h"] == MAX_REPEATS + 1, "with the behaviour of that time"


@pytest.mark.parametrize(
    "change",
    [
        {"images": []},
        {"images": [as_text(encoded(a_picture(1)))]},
        {"listing": {"listing_id": "l2", "seller_id": "seller-2", "title": "Blue bicycle"}},
        {"listing": {"listing_id": "l2", "seller_id": "seller-1", "title": "Blue bicycles"}},
        {"listing": {"listing_id": "l2", "title": "Blue bicycle"}},
    ],
    ids=["no image", "another image", "another seller", "another title", "no seller"],
)
async def test_another_upload_is_judged(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, change: dict[str, Any]
) -> None:
    await _decided(client, gate, 1)
    assert (await _decided(client, gate, 2, **change)).decided_by == "model"
    assert len(predictor.requests) == 2


@pytest.mark.parametrize("failure", ["model", "behaviour", "stage 1 alone"])
async def test_an_answer_that_lacked_something_is_not_given_again(
    client: httpx.AsyncClient,
    gate: UploadGate,
    predictor: FakePredictor,
    failure: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    match failure:
        case "model":
            predictor.error = grpc.StatusCode.INTERNAL
        case "behaviour":
            shares = gate.budgets.shares.model_copy(update={"behaviour": 1e-9})
            no_time = gate.budgets.model_copy(update={"shares": shares})
            monkeypatch.setattr(gate, "budgets", no_time)
        case "stage 1 alone":
            gate.cascade = a_cascade(
                tmp_path, gate.ledger, gate.clock, duplicates=RULES, more=[LetsGoOnce()]
            )
    first = await _decided(client, gate, 1)
    assert first.degraded or first.decided_by == "stage_1"
    monkeypatch.undo()
    predictor.error = None
    assert (await _decided(client, gate, 2)).decided_by == "model"


@pytest.mark.parametrize("kind", ["ground-truth", "reversals"])
@pytest.mark.parametrize("about", ["u1", "u2"])
async def test_an_answer_that_somebody_judged_is_not_given_again(
    client: httpx.AsyncClient, gate: UploadGate, kind: str, about: str
) -> None:
    await _decided(client, gate, 1)
    assert (await _decided(client, gate, 2)).decided_by == "duplicate"
    said: dict[str, dict[str, Any]] = {
        "ground-truth": {"ground_truth_id": "g1", "policy": "spam", "violates": True},
        "reversals": {"reversal_id": "r1", "reason": "false_positive"},
    }
    body = {"submission_id": about} | said[kind]
    response = await client.post(f"/v1/{kind}", json=body, headers=REVIEWER)
    assert response.status_code == 200, response.text
    assert (await _decided(client, gate, 3)).decided_by == "model"


async def test_truth_that_another_gateway_recorded_counts(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    await _decided(client, gate, 1)
    other = replace(gate, keeper=a_keeper(tmp_path, SqliteLedger(tmp_path / "ledger.sqlite")))
    asked = ReversalRequest.model_validate(
        {"reversal_id": "r1", "submission_id": "u1", "reason": "policy_error"}
    )
    assert await record_reversal(other, asked, Role.REVIEWER)
    assert (await _decided(client, gate, 2)).decided_by == "model"


async def test_another_release_or_cap_or_pattern_file_judges_anew(
    client: httpx.AsyncClient,
    gate: UploadGate,
    predictor: FakePredictor,
    routing: Path,
    tmp_path: Path,
) -> None:
    await _decided(client, gate, 1)
    route = Route(url=predictor.url, weight=1.0, caps={"weapons": "block"})
    write_table(routing, RoutingTable(revision=8, champion=BUNDLE, releases={BUNDLE: route}))
    gate.router.refresh()
    assert (await _decided(client, gate, 2)).decided_by == "model"
    assert (await _decided(client, gate, 3)).decided_by == "duplicate"
    with (tmp_path / "patterns.yaml").open("a") as file:
        file.write("# another digest\n")
    gate.cascade.refresh()
    assert (await _decided(client, gate, 4)).decided_by == "model"
    route = Route(url=predictor.url, weight=1.0)
    predictor.release = predictor.release.model_copy(update={"bundle": "b" * 64})
    write_table(routing, RoutingTable(revision=9, champion="b" * 64, releases={"b" * 64: route}))
    gate.router.refresh()
    gate.predictors = type(gate.predictors)()
    assert (await _decided(client, gate, 5)).versions.bundle == "b" * 64


async def test_an_erased_sellers_answer_is_not_given_again(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    await _decided(client, gate, 1)
    assert isinstance(gate.ledger, SqliteLedger)
    gate.ledger.erase("seller-1", belonging, SystemClock().now())
    assert (await _decided(client, gate, 2)).decided_by == "model"


async def test_without_a_release_nothing_is_repeated(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    gate.router = Router(tmp_path / "no-table.json", gate.clock)
    decision = await _decided(client, gate, 1)
    assert (_said(decision).status, _said(decision).reason) == ("missing", "no_release")
    assert decision.decided_by == "failure_policy"


async def test_a_retry_of_a_duplicate_is_the_same_decision(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    await _decided(client, gate, 1)
    assert await _decided(client, gate, 2) == await _decided(client, gate, 2)
