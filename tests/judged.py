"""Bundles that the gates have judged, through the real step on hand-made evidence and a contract of one gate."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from components.home import Home
from components.judge.outcome import Outcome
from components.judge.step import JudgeInputs, run
from moderation.bundle import Bundle
from moderation.clock import Clock
from moderation.gates.evidence import Evidence, ScoredSet
from moderation.release import ReleaseContract, parse_release
from tests.gate_world import CONTRACT, scored_set

_GATES = """\
- id: ranks
  why: Violations are ranked above others.
  measure: average_precision
  set: golden
  comparator: at_least
  limit: 0.5
  min_positives: 10
- id: better
  why: A release must be better than the champion.
  measure: mean_average_precision
  set: golden
  versus: champion
  comparator: more_than
  limit: 0.0
"""
_SUITE = {
    "violations_per_policy": 5,
    "innocents": 6,
    "white_box_items": 2,
    "white_box_steps": 2,
}
"""So few attacked listings that a test can pay for them."""


def contract_text(*gate_ids: str) -> str:
    """Return the shipped contract with other gates: `ranks`, absolute, and `better`, the objective."""
    content: dict[str, Any] = yaml.safe_load(CONTRACT.read_bytes())
    gates = [gate for gate in yaml.safe_load(_GATES) if gate["id"] in (gate_ids or IDS)]
    content |= {
        "gates": gates,
        "promotion": {"objective": "better"},
        "profiles": {"standard": {}, "lenient": {"says": "a test", "report_all_but": ["better"]}},
        "version": "made for tests",
    }
    content["risk"] |= {"resamples": 200}
    content["suite"] |= _SUITE
    return yaml.safe_dump(content, sort_keys=False)


IDS = ("ranks", "better")
CONTRACT_TEXT = contract_text(*IDS)

GOOD, BAD = 3.5, 0.3
"""How far the candidate tells violations apart; a champion lies between."""


def contract() -> ReleaseContract:
    """Return the contract of one gate."""
    return parse_release(CONTRACT_TEXT.encode(), "tests")


def evidence_about(
    digest: str, *, separation: float = GOOD, champion: str | None = None
) -> Evidence:
    """Return evidence that a bundle of this digest tells violations apart this well."""
    golden = scored_set(
        num_rows=600, separation=separation, champion_separation=2.0 if champion else None
    )
    return Evidence(digest, champion, golden.policies, {"golden": _about(golden, digest, champion)})


def judged(
    bundle: Bundle,
    home: Home,
    *,
    separation: float = GOOD,
    champion: str | None = None,
    profile: str = "standard",
    clock: Clock | None = None,
) -> Outcome:
    """Return what the gates make of a bundle; it is kept and attested below `home`."""
    with TemporaryDirectory() as folder:
        evidence_about(bundle.digest, separation=separation, champion=champion).save(Path(folder))
        inputs = JudgeInputs(folder, str(bundle.folder), str(home.folder))
        pack = str(home.pack(bundle.digest))
        return run(inputs, CONTRACT_TEXT, profile, 1, pack=pack, clock=clock)


def _about(golden: ScoredSet, digest: str, champion: str | None) -> ScoredSet:
    other = golden.champion
    return replace(
        golden,
        candidate=replace(golden.candidate, bundle=digest),
        champion=None if other is None else replace(other, bundle=champion or ""),
    )
