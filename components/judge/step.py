"""Evidence + contract -> verdicts, the evidence pack, and an attestation beside the kept bundle."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

from components.contract import read_contract
from components.home import Home
from components.judge.outcome import Outcome
from ledger.ledger import SqliteLedger
from ledger.store import ContentCorrupt, ContentMissing, ContentStore
from moderation import attestation
from moderation.attestation import GATES, Attestation, Statement, TierName
from moderation.bundle import Bundle, store
from moderation.clock import Clock, SystemClock
from moderation.errors import PermanentError
from moderation.evaluation.metrics import roc_points
from moderation.gates import measures
from moderation.gates.evidence import Evidence
from moderation.gates.judging import Judgement
from moderation.gates.judging import judge as judge_evidence
from moderation.pack import load_record, write_pack
from moderation.release import ReleaseContract

__all__ = ["JudgeInputs", "Outcome", "Shown", "for_dashboard", "run"]

assert measures.__all__, "importing them makes the contract's measures known"

_TIERS: Final[tuple[TierName, ...]] = ("tag", "review", "block", "suspend")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class JudgeInputs:
    """Where the inputs of a judgement lie."""

    evidence: str
    release: str
    home: str


@dataclass(frozen=True)
class Shown:
    """What the pipeline's dashboard draws."""

    metrics: dict[str, float]
    """Gate -> 1 if it passed, else 0; beside them the figures of gates that have no slices."""

    roc: Sequence[tuple[float, float, float]]
    """The candidate on the golden set: the worst policy of a listing against a violation of any."""


def run(
    inputs: JudgeInputs,
    contract: str,
    profile: str,
    seed: int,
    *,
    pack: str,
    clock: Clock | None = None,
) -> Outcome:
    """Judge the evidence, write the evidence pack to `pack`, and attest the verdicts.

    The bundle is kept below the home folder, blocked or not, and the statement lies beside it: that is where whoever
    releases a bundle looks.

    Raises:
        PermanentError: if the evidence is about another bundle, or the contract asks for what nobody measures.
        InvalidSnapshot: if the evidence cannot be read.
        BundleRejected: if the bundle or an earlier statement about it is damaged.
    """
    rules, evidence = read_contract(contract), Evidence.load(Path(inputs.evidence))
    home, bundle = Home(Path(inputs.home)), Bundle.open(Path(inputs.release))
    if evidence.candidate != bundle.digest:
        raise PermanentError(
            f"the evidence is about bundle {evidence.candidate[:12]}, not {bundle.digest[:12]}; take it of this one"
        )
    judgement = judge_evidence(evidence, rules, profile=profile, seed=seed)
    judgement = replace(judgement, caps=caps_of(judgement, bundle.manifest.policies))
    write_pack(
        judgement,
        evidence,
        rules,
        Path(pack),
        facts=_facts(bundle),
        thumbnail=_thumbnails(home),
    )
    said = attestation.append(
        store(bundle, home.bundles),
        _statement(judgement, evidence, rules),
        clock=clock or SystemClock(),
        tool=f"tidegate {version('tidegate')}",
    )
    return _outcome(said, evidence)


def caps_of(judgement: Judgement, policies: Sequence[str]) -> dict[str, str]:
    """Return policy -> weakest closed tier; what is closed for an unnamed policy is closed for all of them."""
    caps: dict[str, str] = {}
    for named, tier in judgement.caps.items():
        for policy in [named] if named in policies else policies:
            caps[policy] = min(_tier(caps.get(policy, tier)), _tier(tier), key=_TIERS.index)
    return caps


def for_dashboard(inputs: JudgeInputs, pack: str, *, page: str, summary: str) -> Shown:
    """Return what the dashboard draws; the pack's page and summary are copied to where it reads them."""
    for name, target in (("index.html", page), ("summary.md", summary)):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(pack) / name, target)
    record = load_record(Path(pack) / "judgement.json")
    numbers = {gate.gate.id: float(gate.state == "pass") for gate in record.gates}
    numbers |= {
        f"{gate.gate.id}.{check.of}".rstrip("."): check.value
        for gate in record.gates
        if not gate.gate.slices
        for check in gate.checks
        if check.value is not None and check.of
    }
    numbers |= {
        "gates": float(len(record.gates)),
        "gates_blocking": float(len(record.blocking)),
        "proposed": float(record.state == "proposed"),
    }
    return Shown(numbers, _golden_roc(Evidence.load(Path(inputs.evidence))))


def _tier(name: str) -> TierName:
    return next(tier for tier in _TIERS if tier == name)


def _statement(judgement: Judgement, evidence: Evidence, rules: ReleaseContract) -> Statement:
    sets = {name: one.digest for name, one in evidence.sets.items()}
    if evidence.leaks is not None:
        sets["training"] = evidence.leaks.snapshot
    metrics = {
        f"{result.gate.id}/{check.estimate.of}".rstrip("/"): _finite(check.estimate.value)
        for result in judgement.results
        for check in result.checks
    }
    return Statement(
        kind=GATES,
        contract=rules.digest,
        sets={name: digest for name, digest in sets.items() if _SHA256.fullmatch(digest)},
        verdicts=judgement.verdicts,
        metrics=metrics,
        notes=judgement.notes,
        champion=evidence.champion,
        profile=judgement.profile,
        caps={policy: _tier(tier) for policy, tier in judgement.caps.items()},
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _outcome(said: Attestation, evidence: Evidence) -> Outcome:
    reasons = [f"{v.gate}: {v.verdict}: {v.reason}" for v in said.verdicts if v.blocks]
    if not reasons and not said.is_passing:
        reasons = ["no gate passed: where nothing is shown, nothing is passed"]
    return Outcome(
        state="proposed" if said.is_passing else "blocked",
        bundle=said.bundle,
        champion=evidence.champion,
        attestation=said.digest,
        contract=said.contract,
        profile=said.profile,
        reasons=tuple(reasons),
        caps=dict(said.caps),
        notes=said.notes,
    )


def _facts(bundle: Bundle) -> dict[str, str]:
    inputs = bundle.manifest.inputs
    return {
        "towers profile": bundle.manifest.profile,
        "training snapshot": inputs.snapshot,
        "code": inputs.code,
        "config": inputs.config,
        "seed": str(inputs.seed),
        "study": inputs.prior_study or "none",
        "upgraded from": inputs.parent or "none",
    }


def _thumbnails(home: Home) -> Callable[[str], bytes | None]:
    """Return what gives the first picture of a listing by its submission; None where it has none."""
    if not home.ledger.is_file():
        return lambda submission_id: None
    ledger, content = SqliteLedger(home.ledger), ContentStore(home.content)

    def picture(submission_id: str) -> bytes | None:
        submission = ledger.get_submission(submission_id)
        if submission is None or not submission.image_digests:
            return None
        try:
            return content.get(submission.image_digests[0])
        except (ContentMissing, ContentCorrupt):  # erased since: the page goes without
            return None

    return picture


def _golden_roc(evidence: Evidence) -> list[tuple[float, float, float]]:
    golden = evidence.sets.get("golden")
    if golden is None:
        return []
    violates_N = (golden.truth_NP == 1).any(axis=1)
    known_N = violates_N | (golden.truth_NP >= 0).all(axis=1)
    said_NP = golden.candidate.probability_NP
    said_NP = np.where(np.isfinite(said_NP), said_NP, -1.0)  # a broken head has no place on a curve
    known_N &= (said_NP >= 0).any(axis=1)
    score_N = said_NP[known_N].max(axis=1)
    if not len(score_N):
        return []
    curve = roc_points(score_N, violates_N[known_N].astype(np.int8), np.ones(len(score_N)))
    return [(float(f), float(t), float(limit)) for f, t, limit in zip(*curve, strict=True)]
