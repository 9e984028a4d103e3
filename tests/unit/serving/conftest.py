from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.policy import load_policies
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.behaviour import BudgetedBehaviour
from serving.gateway.breaker import Breaker, Breakers
from serving.gateway.gate import UploadGate
from serving.routing import Route, Router, RoutingTable, write_table
from tests.folded_behaviour import FoldedBehaviour
from tests.kept import SERVING, a_keeper
from tests.unit.serving.fakes import BUNDLE, TOKENS, FakePredictor

# Nothing is left alone after a few calls: tests of breakers bring their own.
RULES = SERVING.breakers


@pytest.fixture
async def predictor() -> AsyncIterator[FakePredictor]:
    fake = FakePredictor()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def routing(tmp_path: Path) -> Path:
    return tmp_path / "routing.json"


@pytest.fixture
async def gate(
    tmp_path: Path, routing: Path, predictor: FakePredictor
) -> AsyncIterator[UploadGate]:
    releases = {BUNDLE: Route(url=predictor.url, weight=1.0)}
    write_table(routing, RoutingTable(revision=7, champion=BUNDLE, releases=releases))
    ledger, clock = SqliteLedger(tmp_path / "ledger.sqlite"), SystemClock()
    gate = UploadGate(
        keeper=a_keeper(tmp_path, ledger),
        behaviour=BudgetedBehaviour(
            FoldedBehaviour(ledger), 5.0, Breaker("features", RULES.features, clock)
        ),
        breakers=Breakers("predictor", RULES.predictor, clock),
        router=Router(routing, clock),
        policies=load_policies(Path("policies/marketplace.yaml")),
        clock=clock,
        predictor_timeout_s=2.0,
    )
    yield gate
    await gate.close()


@pytest.fixture
async def client(gate: UploadGate) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(gate, Callers(TOKENS)), raise_app_exceptions=False)
    headers = {"Authorization": "Bearer s3cret"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=headers
    ) as client:
        yield client
