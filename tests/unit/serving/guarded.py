from pathlib import Path
from typing import Any

from moderation.clock import Clock
from moderation.release import load_release
from moderation.serving_rules import (
    Audit,
    EnforcementQuotas,
    Heartbeat,
    PredictionBreaker,
    ServingRules,
    ShadowRules,
)
from serving.gateway.gate import UploadGate
from serving.gateway.safeguards import Around, safeguards_of

_SERVING = load_release(Path("policies/release.yaml")).serving


def breaker_rules(**changes: Any) -> PredictionBreaker:
    plain: dict[str, Any] = {
        "window_s": 60.0,
        "most_s": 3600.0,
        "newest_listings": 2,
        "least_listings": 10,
        "most_listings": 20,
        "share": 0.5,
        "share_of_policy": 0.4,
        "times_expected": 5.0,
        "least_flags": 3,
    }
    return PredictionBreaker(**plain | changes)


def quota_rules(**changes: Any) -> EnforcementQuotas:
    return EnforcementQuotas(**{"per_hour": 5, "per_policy_per_hour": 4} | changes)


def shadow_rules(**changes: Any) -> ShadowRules:
    plain: dict[str, Any] = {
        "max_in_flight": 4,
        "max_mib_in_flight": 8,
        "timeout_s": 1.0,
        "shed_above": 8,
        "max_kept": 100,
    }
    return ShadowRules(**plain | changes)


def audit_rules(**changes: float) -> Audit:
    return Audit(
        **{"allow": 0.1, "tag": 0.1, "review": 0.1, "block": 0.5, "suspend": 1.0} | changes
    )


def heartbeat_rules() -> Heartbeat:
    return Heartbeat(every_s=1.0, stale_s=5.0)


def serving_rules(**parts: Any) -> ServingRules:
    needed = {
        name: getattr(_SERVING, name)
        for name, field in ServingRules.model_fields.items()
        if field.is_required()
    }
    return ServingRules(**needed | parts)


def guard(
    gate: UploadGate,
    home: Path,
    *,
    gateway: str = "g1",
    clock: Clock | None = None,
    **parts: Any,
) -> UploadGate:
    """Give a gate the safeguards of a contract that has `parts` alone."""
    around = Around(
        home=home,
        ledger=gate.ledger,
        router=gate.router,
        policies=gate.policies,
        clock=clock or gate.clock,
        gateway=gateway,
        breakers=lambda: {**gate.keeper.breakers(), **gate.breakers.states()},
        spilled=lambda: gate.keeper.spilled(),
    )
    gate.safeguards = safeguards_of(serving_rules(**parts), around)
    return gate
