import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import pytest

from ledger.ledger import Ledger, SqliteLedger
from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import Clock, SystemClock
from moderation.pattern_book import PatternBook
from moderation.policy import load_policies
from moderation.prefilter import Prefilter, Stage
from moderation.serving_rules import DuplicateRules
from moderation.stages import BankStage, PatternStage
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.behaviour import BudgetedBehaviour
from serving.gateway.behaviour_stage import BehaviourStage
from serving.gateway.breaker import Breaker, Breakers
from serving.gateway.cascade import Cascade
from serving.gateway.gate import UploadGate
from serving.gateway.intake import Intake
from serving.gateway.repeated import RepeatedUploads
from serving.routing import Route, Router, RoutingTable, write_table
from tests.folded_behaviour import FoldedBehaviour
from tests.kept import PATIENT, SERVING, a_keeper
from tests.unit.serving.fakes import BUNDLE, TOKENS, FakePredictor

# Nothing is left alone after a few calls: tests of breakers bring their own.
RULES = SERVING.breakers
# Room for a busy machine: tests of the deadline bring their own.
BUDGETS = PATIENT.budgets.model_copy(update={"total_ms": 20_000})
POLICIES = load_policies(Path("policies/marketplace.yaml"))
# Tests send the same upload again and again, and mean it to be judged; tests of duplicates bring their own rules.
NO_DUPLICATES = SERVING.stage_1.duplicates.model_copy(update={"max_repeats": 0})


def a_cascade(
    home: Path,
    ledger: Ledger,
    clock: Clock,
    *,
    duplicates: DuplicateRules = NO_DUPLICATES,
    more: Iterable[Stage] = (),
) -> Cascade:
    """Return stage 1 over the banks and the patterns of a home, which begins with the shipped ones."""
    if not (home / "patterns.yaml").exists():
        shutil.copy("policies/patterns.yaml", home)
    banks = Banks(BankVersions(home / "banks", clock), clock)
    book = PatternBook(home / "patterns.yaml", POLICIES.ids, clock)
    stages: list[Stage] = [
        PatternStage(book),
        BankStage(banks, SERVING.stage_1.banks, POLICIES.ids),
        *more,
    ]
    repeated = RepeatedUploads(ledger, duplicates, clock)
    behaviour = BehaviourStage(SERVING.stage_1.behaviour, clock)
    return Cascade(banks, book, repeated, Prefilter(stages, clock), behaviour)


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
            FoldedBehaviour(ledger), Breaker("features", RULES.features, clock)
        ),
        breakers=Breakers("predictor", RULES.predictor, clock),
        intake=Intake(SERVING.intake),
        router=Router(routing, clock),
        cascade=a_cascade(tmp_path, ledger, clock),
        policies=POLICIES,
        clock=clock,
        budgets=BUDGETS,
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
