"""Circuit breakers: they open on a failing dependency, let one call try again, and close when it succeeds."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from moderation.clock import SimulatedClock
from moderation.errors import FeatureStoreUnavailable, PermanentError
from moderation.serving_rules import BreakerRules
from moderation.settings import Settings
from serving.errors import PredictorOverloaded, PredictorRefused
from serving.gateway.__main__ import build_gate
from serving.gateway.breaker import IS_OPEN, Breaker, Breakers, CircuitOpen
from serving.gateway.gate import UploadGate
from tests.unit.serving.fakes import FakePredictor, an_upload

START = datetime(2026, 11, 1, tzinfo=UTC)
RULES = BreakerRules(calls=4, share=0.5, open_s=10.0)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(START)


@pytest.fixture
def breaker(clock: SimulatedClock) -> Breaker:
    return Breaker("store", RULES, clock)


def _succeed(breaker: Breaker) -> None:
    with breaker.call():
        pass


def _fail(breaker: Breaker) -> None:
    with pytest.raises(FeatureStoreUnavailable), breaker.call():
        raise FeatureStoreUnavailable("away")


def _opened(breaker: Breaker) -> Breaker:
    for _ in range(RULES.calls):
        _fail(breaker)
    assert breaker.state() == "open"
    return breaker


def test_it_opens_at_its_share_and_not_below(breaker: Breaker) -> None:
    for one in (_fail, _succeed, _succeed, _succeed, _fail):
        one(breaker)
    assert breaker.state() == "closed", "1 of the newest 4, then 1 again"
    _fail(breaker)
    assert breaker.state() == "open"
    assert IS_OPEN.labels("store")._value.get() == 1


def test_few_calls_say_nothing(breaker: Breaker) -> None:
    for _ in range(RULES.calls - 1):
        _fail(breaker)
    assert breaker.state() == "closed"


def test_open_lets_nothing_pass_and_says_why(breaker: Breaker) -> None:
    with (
        pytest.raises(CircuitOpen, match="store failed in 50% of its last 4 calls"),
        _opened(breaker).call(),
    ):
        pytest.fail("it must not be called")


def test_one_call_tries_again_and_closes(breaker: Breaker, clock: SimulatedClock) -> None:
    _opened(breaker)
    clock.move_to(START + timedelta(seconds=10))
    assert breaker.state() == "half open"
    with breaker.call(), pytest.raises(CircuitOpen), breaker.call():
        pytest.fail("one at a time")
    assert breaker.state() == "closed"
    assert IS_OPEN.labels("store")._value.get() == 0
    _fail(breaker)
    assert breaker.state() == "closed", "what was before is forgotten"


def test_a_trial_that_fails_opens_it_again(breaker: Breaker, clock: SimulatedClock) -> None:
    _opened(breaker)
    clock.move_to(START + timedelta(seconds=10))
    _fail(breaker)
    assert breaker.state() == "open"
    clock.move_to(START + timedelta(seconds=20))
    _succeed(breaker)
    assert breaker.state() == "closed"


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("ours"),
        asyncio.CancelledError(),
        PredictorOverloaded("no room"),
        PredictorRefused("this one"),
    ],
)
def test_what_says_nothing_of_the_dependency_is_not_counted(
    breaker: Breaker, clock: SimulatedClock, error: BaseException
) -> None:
    for _ in range(2 * RULES.calls):
        with pytest.raises(type(error)), breaker.call():
            raise error
    assert breaker.state() == "closed"
    _opened(breaker)
    clock.move_to(START + timedelta(seconds=10))
    with pytest.raises(type(error)), breaker.call():
        raise error
    assert breaker.state() == "half open", "a trial that says nothing leaves room for the next"
    _succeed(breaker)
    assert breaker.state() == "closed"


def test_a_time_budget_that_runs_out_is_a_failure(breaker: Breaker) -> None:
    for _ in range(RULES.calls):
        with pytest.raises(TimeoutError), breaker.call():
            raise TimeoutError
    assert breaker.state() == "open"


def test_each_dependency_has_its_own(clock: SimulatedClock) -> None:
    breakers = Breakers("predictor", RULES, clock)
    _opened(breakers.of("candidate"))
    _succeed(breakers.of("champion"))
    assert breakers.of("candidate").state() == "open"


async def test_a_failing_predictor_is_left_alone_and_taken_back(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    gate.breakers = Breakers("predictor", RULES.model_copy(update={"open_s": 0.2}), gate.clock)
    predictor.error = grpc.StatusCode.UNAVAILABLE
    said = [await _error(client, gate) for _ in range(RULES.calls + 1)]
    assert [text.startswith("CircuitOpen") for text in said] == [False] * RULES.calls + [True]
    assert len(predictor.requests) == RULES.calls
    predictor.error = None
    await asyncio.sleep(0.3)
    assert await _error(client, gate) == ""


async def test_uploads_that_a_predictor_refuses_leave_it_to_others(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    gate.breakers = Breakers("predictor", RULES, gate.clock)
    predictor.error = grpc.StatusCode.INVALID_ARGUMENT
    said = [await _error(client, gate) for _ in range(2 * RULES.calls)]
    assert {text.partition(":")[0] for text in said} == {"PredictorRefused"}
    predictor.error = None
    assert await _error(client, gate) == ""


async def _error(client: httpx.AsyncClient, gate: UploadGate) -> str:
    """Return why the model did not answer; each upload passes all the same."""
    response = await client.post("/v1/decisions", json=an_upload())
    assert (response.status_code, response.json()["tier"]) == (200, "allow")
    decision = gate.ledger.get_decision(response.json()["trace_id"])
    assert decision is not None
    return decision.attempts[0].error or ""


def test_the_contract_says_when(tmp_path: Path) -> None:
    contract = yaml.safe_load(Path("policies/release.yaml").read_text())
    contract["serving"]["breakers"]["predictor"] = {"calls": 2, "share": 0.5, "open_s": 60.0}
    file = tmp_path / "release.yaml"
    file.write_text(yaml.safe_dump(contract, sort_keys=False))
    gate = build_gate(Settings(home=tmp_path, release_file=file), tmp_path / "routing.json")
    breaker = gate.breakers.of("grpc://somewhere")
    for _ in range(2):
        assert breaker.state() == "closed"
        _fail(breaker)
    assert breaker.state() == "open"
