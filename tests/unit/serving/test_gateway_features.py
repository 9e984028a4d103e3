"""Behaviour features on the way of a decision: out of Feast, within a budget, every fault said and none fatal."""

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from feast.protos.feast.types.Value_pb2 import Value as FeastValue

from featurestore.layout import PROJECT, STREAM, Place
from featurestore.online import BehaviourRead
from featurestore.writer import catch_up
from ledger.ledger import SqliteLedger
from moderation.activity_rows import RowKind, to_us
from moderation.clock import SystemClock
from moderation.decision import Decision, SignalStatus
from moderation.listing import Submission
from moderation.serving_rules import BreakerRules
from serving.gateway.behaviour import BehaviourReader, BudgetedBehaviour, FeastReader
from serving.gateway.breaker import Breaker
from serving.gateway.gate import UploadGate
from tests.hanging_reader import HangingReader
from tests.unit.serving.fakes import an_upload

_BUDGET_S = 5.0
_OF_THE_SELLER = "submissions_1h"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "features")


@pytest.fixture(autouse=True)
def on_feast(gate: UploadGate, place: Place) -> None:
    gate.behaviour.close()
    gate.behaviour = _budgeted(FeastReader(place, _BUDGET_S), gate)


def _budgeted(reader: BehaviourReader, gate: UploadGate) -> BudgetedBehaviour:
    rules = BreakerRules(calls=15, share=0.99, open_s=60.0)
    return BudgetedBehaviour(reader, Breaker("features", rules, gate.clock))


async def _decision(client: httpx.AsyncClient, gate: UploadGate) -> Decision:
    response = await client.post("/v1/decisions", json=an_upload())
    assert response.status_code == 200, response.text
    found = gate.ledger.get_decision(response.json()["trace_id"])
    assert found is not None
    return found


def _catch_up(gate: UploadGate, place: Place) -> None:
    assert isinstance(gate.ledger, SqliteLedger)
    catch_up(place, gate.ledger, SystemClock())


async def test_a_decision_uses_what_feast_holds(
    client: httpx.AsyncClient, gate: UploadGate, place: Place
) -> None:
    await _decision(client, gate)
    await _decision(client, gate)
    _catch_up(gate, place)
    decision = await _decision(client, gate)
    features = {one.name: one for one in decision.features}
    assert (features[_OF_THE_SELLER].value, features[_OF_THE_SELLER].status) == (2.0, "ok")
    assert features["price_log_ratio"].status == "missing"
    assert decision.degraded == ()
    assert decision.features_through is not None
    assert decision.features_through <= decision.submitted_at
    ready = (await client.get("/readyz")).json()
    assert ready["checks"]["features"] == "ok"


async def test_without_a_store_a_decision_says_so_and_the_next_one_has_it(
    client: httpx.AsyncClient, gate: UploadGate, place: Place
) -> None:
    decision = await _decision(client, gate)
    assert {one.status for one in decision.features} == {SignalStatus.ERROR}
    assert decision.features_through is None
    [said] = decision.degraded
    assert "FeaturesNotReady" in said
    assert "tidegate features apply" in said
    assert (await client.get("/readyz")).json()["checks"]["features"] == "error"
    _catch_up(gate, place)
    assert (await _decision(client, gate)).degraded == ()


async def test_stale_features_are_named_and_not_used(
    client: httpx.AsyncClient, gate: UploadGate, place: Place
) -> None:
    await _decision(client, gate)
    _catch_up(gate, place)
    old = SystemClock().now() - timedelta(minutes=20)
    _beat(place, old)
    decision = await _decision(client, gate)
    features = {one.name: one for one in decision.features}
    assert (features[_OF_THE_SELLER].value, features[_OF_THE_SELLER].status) == (None, "error")
    assert features["submissions_30d"].status == "ok"
    [said] = decision.degraded
    assert said.startswith("behaviour: 120")
    assert said.endswith(f"stale: {_OF_THE_SELLER}")
    assert decision.features_through == old


async def test_a_row_that_cannot_be_read_is_a_fault_and_not_a_new_seller(
    client: httpx.AsyncClient, gate: UploadGate, place: Place
) -> None:
    await _decision(client, gate)
    _catch_up(gate, place)
    table = f"{PROJECT}_{RowKind.SELLER.view}"
    with closing(sqlite3.connect(place.online_file)) as connection, connection:
        connection.execute(f'UPDATE "{table}" SET value = ?', (b"\x0a\x03bad",))
    decision = await _decision(client, gate)
    features = {one.name: one for one in decision.features}
    assert features[_OF_THE_SELLER].status == "error"
    assert features["price_log_ratio"].status == "missing"
    assert decision.degraded == ("behaviour: rows that cannot be read: seller_activity",)


async def test_a_store_that_hangs_costs_its_budget_and_never_the_decision(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    gate.behaviour = _budgeted(HangingReader(), gate)
    shares = gate.budgets.shares.model_copy(
        update={"behaviour": 0.05 / (gate.budgets.total_ms / 1e3)}
    )
    gate.budgets = gate.budgets.model_copy(update={"shares": shares})
    for _ in range(15):  # more than there are threads to hang in
        decision = await _decision(client, gate)
        assert decision.degraded == ("behaviour: could not be read: no answer in 50 ms",)
    assert gate.behaviour.last == "timeout"
    [said] = (await _decision(client, gate)).degraded
    assert "is left alone for 60 s" in said
    assert gate.behaviour.last == "left alone"


class _Broken:
    def read(self, submission: Submission) -> BehaviourRead:
        raise ZeroDivisionError("a bug")

    def close(self) -> None:
        pass


async def test_a_bug_in_the_reader_stops_no_upload(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    gate.behaviour = _budgeted(_Broken(), gate)
    decision = await _decision(client, gate)
    assert decision.degraded == ("behaviour: could not be read: ZeroDivisionError: a bug",)


def _beat(place: Place, through: datetime) -> None:
    """Set back up to when the rows are complete; Feast itself keeps the newer one."""
    value = FeastValue(int64_val=to_us(through)).SerializeToString()
    with closing(sqlite3.connect(place.online_file)) as connection, connection:
        connection.execute(
            f'UPDATE "{PROJECT}_{STREAM}" SET value = ? WHERE feature_name = ?',
            (value, "through_us"),
        )
