"""Alerts are what the contract says, stand on metrics that exist, and each has a runbook."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY
from pydantic import ValidationError

import serving.gateway.app  # its metrics
import serving.predictor.measures  # noqa: F401  # and its
from moderation.release import load_release
from moderation.serving_rules import AlertRules, ServingRules
from serving.alerts import RUNBOOKS, alerts, render

ROOT = Path(__file__).parents[2]
RULES = load_release(ROOT / "policies/release.yaml").serving
FILE = ROOT / "manifests/monitoring/alerts.yaml"


def test_alert_rules_are_rendered_from_the_contract() -> None:
    assert FILE.read_text() == render(RULES), "run `make alerts`"
    changed = RULES.model_copy(
        update={"enforcement_quotas": RULES.enforcement_quotas.model_copy(update={"per_hour": 7})}
        if RULES.enforcement_quotas
        else {}
    )
    assert "Quota: 7 an hour" in " ".join(render(changed).split())


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    named = {alert.runbook: alert.name for alert in alerts(RULES)}
    pages = {path.stem: path.read_text() for path in (ROOT / RUNBOOKS).glob("*.md")}
    assert named.keys() == pages.keys()
    for runbook, name in named.items():
        assert pages[runbook].startswith(f"# {name}\n")


def test_every_alert_stands_on_metrics_that_exist() -> None:
    families = {metric.name for metric in REGISTRY.collect()}
    for alert in alerts(RULES):
        for name in re.findall(r"tidegate_[a-z_]+", alert.expression):
            assert name.removesuffix("_total") in families, (alert.name, name)


@pytest.mark.parametrize("name", ["prediction_breaker", "enforcement_quotas", "shadow", "alerts"])
def test_part_that_is_off_has_no_alert(name: str) -> None:
    off = ServingRules(
        **{
            name: getattr(RULES, name)
            for name, field in ServingRules.model_fields.items()
            if field.is_required()
        }
    )
    assert list(alerts(off)) == []
    only = off.model_copy(update={name: getattr(RULES, name)})
    assert list(alerts(only))


def test_one_event_cannot_alert() -> None:
    assert RULES.alerts is not None
    limits = RULES.alerts.model_dump() | {"after_s": RULES.alerts.window_s}
    with pytest.raises(ValidationError, match="after_s: must be more than window_s"):
        AlertRules(**limits)


def test_alert_rules_are_yaml_that_prometheus_reads() -> None:
    [group] = yaml.safe_load(FILE.read_text())["groups"]
    assert {tuple(rule) for rule in group["rules"]} == {
        ("alert", "expr", "for", "labels", "annotations")
    }
