"""The alert rules of gateway and predictor, rendered from the release contract: `python -m serving.alerts > <file>`."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from moderation.release import load_release
from moderation.serving_rules import AlertRules, ServingRules
from moderation.settings import settings

RUNBOOKS: Final = "docs/runbooks"
"""Each alert has a page there, named by its runbook."""

_HEAD: Final = (
    "# Rendered from policies/release.yaml by `make alerts`: change the contract, not this file.\n"
)


@dataclass(frozen=True)
class Alert:
    """One condition that a person has to know of."""

    name: str
    runbook: str
    expression: str
    """PromQL; true means alert."""

    summary: str
    severity: str = "page"
    after_s: float = 0.0
    """Seconds for which it must hold."""

    def rule(self) -> dict[str, Any]:
        """Return it as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": f"{self.after_s:g}s",
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "runbook": f"{RUNBOOKS}/{self.runbook}.md",
            },
        }


def alerts(rules: ServingRules) -> Iterator[Alert]:
    """Yield the alerts of every part that the contract switches on."""
    if rules.prediction_breaker is not None or rules.enforcement_quotas is not None:
        yield Alert(
            "TidegateEnforcementStopped",
            "enforcement-stopped",
            "max(tidegate_enforcement_stopped) == 1",
            f"Nothing is blocked or suspended without a person any more. {_limits(rules)}",
        )
        yield Alert(
            "TidegateEnforcementUnread",
            "enforcement-unread",
            "sum(increase(tidegate_enforcement_sync_failed_total[60s])) > 0",
            "A gateway cannot read or record the state of enforcement in the ledger.",
            after_s=60,
        )
    if rules.shadow is not None:
        share = rules.breakers.predictor.share
        failed, sent = (
            f'sum(rate(tidegate_shadow_requests_total{{outcome="{outcome}"}}[300s]))'
            for outcome in ("failed", "sent")
        )
        yield Alert(
            "TidegateShadowFails",
            "shadow-fails",
            f"{failed} / {sent} > {share:g}",
            f"The shadow fails in more than {share:.0%} of what it is asked; no upload suffers from it.",
            severity="ticket",
            after_s=300,
        )
    if rules.alerts is not None:
        yield from _without(rules.alerts)
        yield from _of_the_spill(rules, rules.alerts)


def _without(limits: AlertRules) -> Iterator[Alert]:
    """Yield what says that gateways do without a part of theirs."""
    window = f"[{limits.window_s:g}s]"
    failed, judged = (
        f'sum(increase(tidegate_decided_by_total{{by=~"{by}"}}{window}))'
        for by in ("failure_policy", "failure_policy|model")
    )
    yield Alert(
        "TidegateWithoutModel",
        "without-model",
        f"{failed} / {judged} > {limits.without_model:g} and {judged} >= {limits.least_uploads}",
        f"More than {limits.without_model:.0%} of what a model was to judge is answered by the failure policy alone.",
        after_s=limits.after_s,
    )
    # Counted is each trial that failed: the state of a circuit that nobody calls any more says nothing.
    opened = f'tidegate_circuit_opened_total{{dependency!~"shadow .*"}}{window}'
    yield Alert(
        "TidegateCircuitOpen",
        "circuit-open",
        f"sum by (dependency) (increase({opened})) > 0",
        "A dependency of a gateway keeps failing and is left alone: uploads are answered without it.",
        after_s=limits.after_s,
    )
    yield Alert(
        "TidegateLoopFails",
        "loop-fails",
        f"sum by (loop) (increase(tidegate_gateway_loop_failures_total{window})) > 0",
        "What a gateway does in the background fails again and again.",
        after_s=limits.after_s,
    )
    yield Alert(
        "TidegatePreparersEnd",
        "preparers-end",
        f"sum(increase(tidegate_predictor_preparers_ended_total{window})) > 0",
        "Processes that decode uploads for a predictor keep ending: somebody may be sending what brings them down.",
        severity="ticket",
        after_s=limits.after_s,
    )


def _of_the_spill(rules: ServingRules, limits: AlertRules) -> Iterator[Alert]:
    most_bytes = int(limits.spill_share * rules.spill.max_bytes)
    yield Alert(
        "TidegateSpillFills",
        "spill-fills",
        f"max(tidegate_spill_bytes) > {most_bytes}",
        f"The spill of a gateway is beyond {limits.spill_share:.0%} of its limit; at the limit uploads get 503.",
    )
    yield Alert(
        "TidegateSpillWaits",
        "spill-waits",
        "max(tidegate_spill_waiting) > 0",
        f"Decisions or inputs have waited in a spill for {limits.spill_wait_s:g} s, seen by one gateway alone.",
        severity="ticket",
        after_s=limits.spill_wait_s,
    )
    yield Alert(
        "TidegateSpillQuarantined",
        "spill-quarantined",
        "max(tidegate_spill_quarantined) > 0",
        "What a gateway had spilled contradicts the ledger, or was damaged, and is kept aside for a person.",
        severity="ticket",
    )


class _Indented(yaml.SafeDumper):
    """Indents lists below their key, as the YAML of this repository does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def render(rules: ServingRules) -> str:
    """Return the file of alert rules."""
    group = {"name": "tidegate-gateway", "rules": [one.rule() for one in alerts(rules)]}
    return _HEAD + yaml.dump({"groups": [group]}, Dumper=_Indented, sort_keys=False, width=110)


def _limits(rules: ServingRules) -> str:
    breaker, quotas = rules.prediction_breaker, rules.enforcement_quotas
    said = []
    if breaker is not None:
        said.append(
            f"Limits: {breaker.share:.0%} of a release's newest {breaker.least_listings} or more listings at block, "
            f"{breaker.share_of_policy:.0%} under one policy, {breaker.times_expected:g} times what was expected."
        )
    if quotas is not None:
        said.append(
            f"Quota: {quotas.per_hour} an hour, {quotas.per_policy_per_hour} under one policy."
        )
    return " ".join(said)


def main(contract: Path | None = None) -> None:
    """Write the rules of the contract in force to the standard output."""
    rules = load_release(contract or settings().release_file).serving
    sys.stdout.write(render(rules))


if __name__ == "__main__":
    main()
