"""Serve the upload gate: `python -m serving.gateway --port 8000`; everything else comes from the settings."""

import argparse
import logging
import secrets
import sys
from pathlib import Path

import uvicorn

from featurestore.layout import Place
from ledger.ledger import Ledger
from moderation import telemetry
from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import Clock, SystemClock
from moderation.errors import TidegateError
from moderation.pattern_book import PatternBook
from moderation.policy import PolicyFile, load_policies
from moderation.prefilter import Prefilter, Stage
from moderation.release import load_release
from moderation.settings import Settings, settings
from moderation.stages import BankStage, PatternStage
from serving.garbage import freeze_loaded
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.behaviour import BudgetedBehaviour, FeastReader
from serving.gateway.behaviour_stage import BehaviourStage
from serving.gateway.breaker import Breaker, Breakers
from serving.gateway.cascade import Cascade
from serving.gateway.explanations import ExplainerClient
from serving.gateway.gate import UploadGate
from serving.gateway.intake import Intake
from serving.gateway.keeping import Keeper
from serving.gateway.quotas import Quotas
from serving.gateway.repeated import RepeatedUploads
from serving.gateway.safeguards import Around, safeguards_of
from serving.routing import Router

_LOG = logging.getLogger("serving.gateway")


def build_gate(config: Settings, routing: Path) -> UploadGate:
    """Return the gate that the settings describe."""
    clock = SystemClock()
    serving = load_release(config.release_file).serving
    rules, budgets = serving.breakers, serving.budgets
    connect_s = budgets.shares.behaviour * budgets.total_ms / 1e3
    keeper = Keeper.of(config, serving, clock)
    router, policies = Router(routing, clock), load_policies(config.policy_file)
    features = Breaker("features", rules.features, clock)
    predictors = Breakers("predictor", rules.predictor, clock)
    around = Around(
        home=config.home,
        ledger=keeper.ledger,
        router=router,
        policies=policies,
        clock=clock,
        gateway=secrets.token_hex(8),
        breakers=lambda: {
            **keeper.breakers(),
            "features": features.state(),
            **predictors.states(),
        },
        spilled=keeper.spilled,
    )
    return UploadGate(
        keeper=keeper,
        behaviour=BudgetedBehaviour(
            FeastReader(Place.of(config), connect_s),
            features,
        ),
        breakers=predictors,
        intake=Intake(serving.intake),
        router=router,
        cascade=build_cascade(config, keeper.ledger, policies, clock),
        policies=policies,
        safeguards=safeguards_of(serving, around),
        clock=clock,
        budgets=budgets,
    )


def build_cascade(config: Settings, ledger: Ledger, policies: PolicyFile, clock: Clock) -> Cascade:
    """Return stage 1 of the gateway that the settings describe."""
    rules = load_release(config.release_file).serving.stage_1
    banks = Banks(BankVersions(config.home / "banks", clock), clock)
    book = PatternBook(config.patterns, policies.ids, clock)
    stages: list[Stage] = [PatternStage(book), BankStage(banks, rules.banks, policies.ids)]
    repeated = RepeatedUploads(ledger, rules.duplicates, clock)
    behaviour = BehaviourStage(rules.behaviour, clock)
    return Cascade(banks, book, repeated, Prefilter(stages, clock), behaviour)


def main() -> int:
    """Serve until a signal stops the process; requests in flight are answered first."""
    parser = argparse.ArgumentParser(prog="serving.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port of the HTTP API")
    parser.add_argument("--routing", type=Path, help="routing table; below `home` if not given")
    arguments = parser.parse_args()
    telemetry.configure("gateway")
    try:
        config = settings()
        callers = Callers(config.gateway_tokens.get_secret_value())
        gate = build_gate(config, arguments.routing or config.home / "routing.json")
        rules = load_release(config.release_file).serving
        explainer = ExplainerClient(config.explainer_url, rules.explanation_timeout_s)
        telemetry.export_traces("gateway", config)
    except TidegateError as error:
        _LOG.error("cannot serve", extra={"reason": str(error)})
        return 1
    app = create_app(gate, callers, Quotas(config.gateway_quota_per_s, gate.clock), explainer)
    freeze_loaded()
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
