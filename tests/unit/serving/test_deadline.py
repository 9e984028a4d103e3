"""One deadline per upload: what each stage gets of it, what a caller may ask for, and what is said when it is over."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from pydantic import ValidationError

from moderation.clock import SimulatedClock, SystemClock
from moderation.decision import MODEL_UNAVAILABLE, Decision
from moderation.serving_rules import BreakerRules, Budgets, StageShares
from serving.deadline import Deadline, asked_ms
from serving.errors import BadRequest
from serving.gateway.behaviour import BudgetedBehaviour
from serving.gateway.breaker import Breaker, Breakers
from serving.gateway.gate import UploadGate
from tests.hanging_reader import HangingReader
from tests.unit.serving.fakes import FakePredictor, an_upload

BUDGETS = Budgets(
    total_ms=1_000,
    least_ms=20,
    fair_share=0.5,
    shares=StageShares(behaviour=0.1, record=0.2),
    ledger_ms=250,
)
_RULES = BreakerRules(calls=2, share=0.5, open_s=60.0)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(datetime(2026, 11, 1, tzinfo=UTC))


def _rounded(*seconds: float) -> list[float]:
    return [round(one, 6) for one in seconds]


def test_the_predictor_gets_what_the_others_leave(clock: SimulatedClock) -> None:
    deadline = Deadline(BUDGETS, clock)
    assert _rounded(deadline.behaviour_s(), deadline.predictor_s()) == [0.1, 0.8]
    clock.advance(0.1)
    assert _rounded(deadline.predictor_s()) == [0.7]
    clock.advance(0.65)
    assert _rounded(deadline.behaviour_s(), deadline.predictor_s()) == [0.1, 0.05]
    clock.advance(0.2)
    assert _rounded(deadline.behaviour_s(), deadline.predictor_s()) == [0.05, 0.0]
    clock.advance(5)
    assert _rounded(deadline.behaviour_s(), deadline.left_s()) == [0.0, 0.0]


def test_a_caller_may_ask_for_less_and_gets_no_more(clock: SimulatedClock) -> None:
    assert Deadline(BUDGETS, clock, 400).behaviour_s() == pytest.approx(0.04)
    assert Deadline(BUDGETS, clock, 9_999).left_s() == pytest.approx(1.0)
    assert asked_ms(None, BUDGETS) is None
    assert asked_ms("20", BUDGETS) == 20


@pytest.mark.parametrize("header", ["", "19", "-5", "1.5", "1e3", "soon", "²", "9" * 40])
def test_a_deadline_is_refused_when_it_is_none(header: str) -> None:
    with pytest.raises(BadRequest, match="x-deadline-ms: send"):
        asked_ms(header, BUDGETS)


def test_only_who_had_its_time_is_blamed(clock: SimulatedClock) -> None:
    deadline = Deadline(BUDGETS, clock)
    assert deadline.is_fair_to_predictor(0.35)
    assert not deadline.is_fair_to_predictor(0.34)
    assert deadline.is_fair_to_behaviour(0.05)
    assert not deadline.is_fair_to_behaviour(0.049)


def test_budgets_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="nothing for the predictor"):
        Budgets.model_validate(BUDGETS.model_dump() | {"shares": {"behaviour": 0.5, "record": 0.5}})
    with pytest.raises(ValidationError, match="lower it"):
        Budgets.model_validate(BUDGETS.model_dump() | {"least_ms": 2_000})


async def _decided(
    client: httpx.AsyncClient, gate: UploadGate, deadline_ms: int | None = None
) -> Decision:
    headers = {} if deadline_ms is None else {"x-deadline-ms": str(deadline_ms)}
    response = await client.post("/v1/decisions", json=an_upload(), headers=headers)
    assert response.status_code == 200, response.text
    found = gate.ledger.get_decision(response.json()["trace_id"])
    assert found is not None
    return found


async def test_a_slow_store_eats_its_share_and_the_predictor_answers(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    gate.behaviour.close()
    gate.behaviour = BudgetedBehaviour(HangingReader(), Breaker("features", _RULES, gate.clock))
    gate.budgets = BUDGETS.model_copy(update={"total_ms": 4_000})
    predictor.delay_s = 1.0  # more than the store's share, less than what it leaves
    begin = gate.clock.monotonic()
    decision = await _decided(client, gate)
    assert 1.4 <= gate.clock.monotonic() - begin < 4.0
    assert decision.attempts[0].status == "ok"
    assert decision.degraded == ("behaviour: could not be read: no answer in 400 ms",)


async def test_a_slow_predictor_is_cut_at_the_deadline(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    predictor.delay_s = 10.0
    begin = gate.clock.monotonic()
    decision = await _decided(client, gate, 600)
    assert gate.clock.monotonic() - begin < 5.0
    assert (decision.attempts[0].status, decision.reason_codes) == ("timeout", (MODEL_UNAVAILABLE,))


async def test_a_spent_deadline_is_answered_by_policy_and_says_so(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    class SlowLedgerClock(SystemClock):
        """Runs ahead once the upload is there, as if the disk had taken that long."""

        ahead = 0.0

        def monotonic(self) -> float:
            self.ahead += 10.0
            return super().monotonic() + self.ahead

    gate.clock = SlowLedgerClock()
    decision = await _decided(client, gate)
    assert not predictor.requests, "nobody waits for its answer, so it is not asked"
    assert decision.attempts[0].status == "timeout"
    assert decision.reason_codes == (MODEL_UNAVAILABLE,)
    said = [what for what in decision.degraded if what.startswith("deadline: ")]
    assert said == ["deadline: the upload's 20000 ms were over before the predictor was asked"]
    assert (
        "behaviour: could not be read: the upload's 20000 ms were over before" in decision.degraded
    )


async def test_hurried_callers_open_no_circuit(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    gate.breakers = Breakers("predictor", _RULES, gate.clock)
    await _decided(client, gate)  # the connection stands
    predictor.delay_s = 1.0
    await asyncio.gather(*(_decided(client, gate, 100) for _ in range(4)))
    assert gate.breakers.of(predictor.url).state() == "closed"
    predictor.delay_s = 0.0
    assert (await _decided(client, gate)).attempts[0].status == "ok"


async def test_a_deadline_beyond_any_decision_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"x-deadline-ms": "3"}
    response = await client.post("/v1/decisions", json=an_upload(), headers=headers)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
