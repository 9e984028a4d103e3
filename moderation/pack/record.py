"""The judgement of one candidate as data: every gate, check, bound and state; what `judgement.json` holds.

Everything else in a pack is rendered from it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import PermanentError
from moderation.evaluation.plain import without_nan
from moderation.gates.evidence import Evidence
from moderation.gates.judging import Check, GateResult, Judgement, State, still_needed
from moderation.release import Gate, ReleaseContract

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckRecord(_Frozen):
    """One gate on one policy, slice value or attack."""

    of: str
    state: State
    reason: str
    value: Finite | None
    """None where the figure could not be taken."""

    low: Finite | None
    """One-sided bound at the gate's confidence; None where nothing bounds it."""

    high: Finite | None
    rows: int
    positives: int
    needed: tuple[str, ...]
    """What it would take to settle it, such as `60 positives`; empty once settled, or where no number is known."""

    why_missing: str = ""
    """Why there is no value; part of the reason."""

    remark: str = ""
    """What people must know of the figure; part of the reason."""

    detail: dict[str, Any] = Field(default_factory=dict)


class GateRecord(_Frozen):
    """One gate as the contract has it, with its verdict; checks stand worst first."""

    gate: Gate
    state: State
    reason: str
    blocks: bool
    checks: tuple[CheckRecord, ...]


class SetRecord(_Frozen):
    """One frozen set that was looked at."""

    digest: str
    rows: int
    groups: int


class PackRecord(_Frozen):
    """The judgement of one candidate."""

    format: Literal["tidegate.pack/1"] = "tidegate.pack/1"
    state: Literal["proposed", "blocked"]
    candidate: str
    champion: str | None
    contract_version: str
    contract_digest: str
    objective: str
    profile: str
    says: str
    """What the profile says of itself; empty for the standard one."""

    policies: tuple[str, ...]
    sets: dict[str, SetRecord]
    gates: tuple[GateRecord, ...]
    caps: dict[str, str]
    notes: tuple[str, ...]
    missing: dict[str, str]
    facts: dict[str, str]

    @property
    def blocking(self) -> tuple[GateRecord, ...]:
        """Gates that keep the candidate back, failures first."""
        return tuple(sorted((g for g in self.gates if g.blocks), key=lambda g: g.state != "fail"))

    def measured(self, *measures: str) -> tuple[GateRecord, ...]:
        """Return the gates that use one of these measures."""
        return tuple(one for one in self.gates if one.gate.measure in measures)


_WORST_FIRST: Final = ("fail", "no_data", "not_certified", "pass")


def record_of(
    judgement: Judgement, evidence: Evidence, contract: ReleaseContract, facts: Mapping[str, str]
) -> PackRecord:
    """Return the judgement as data.

    Args:
        judgement: verdicts of the contract's gates.
        evidence: what they were taken on.
        contract: gives profile, version and digest.
        facts: lineage; added to that of the evidence.
    """
    return PackRecord(
        state="proposed" if judgement.is_passing else "blocked",
        candidate=evidence.candidate,
        champion=evidence.champion,
        contract_version=contract.version,
        contract_digest=contract.digest,
        objective=contract.promotion.objective,
        profile=judgement.profile,
        says=contract.profiles[judgement.profile].says,
        policies=evidence.policies,
        sets={
            name: SetRecord(
                digest=one.digest, rows=one.num_rows, groups=len(set(one.group.tolist()))
            )
            for name, one in evidence.sets.items()
        },
        gates=tuple(_gate(result) for result in judgement.results),
        caps=dict(judgement.caps),
        notes=judgement.notes,
        missing=dict(evidence.missing),
        facts=dict(evidence.facts) | dict(facts),
    )


def save_record(record: PackRecord, path: Path) -> None:
    """Write a record as JSON, without NaN."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def load_record(path: Path) -> PackRecord:
    """Return the record in a `judgement.json`.

    Raises:
        PermanentError: if it is not there, damaged or of another format.
    """
    try:
        return PackRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise PermanentError(f"{path}: no readable judgement; judge the candidate again") from error


def _gate(result: GateResult) -> GateRecord:
    checks = [_check(result.gate, check) for check in result.checks]
    return GateRecord(
        gate=result.gate,
        state=result.state,
        reason=result.reason,
        blocks=result.blocks,
        checks=tuple(sorted(checks, key=lambda check: (_rank(check), _room(result.gate, check)))),
    )


def _check(gate: Gate, check: Check) -> CheckRecord:
    estimate = check.estimate
    return CheckRecord(
        of=estimate.of,
        state=check.state,
        reason=check.reason,
        value=without_nan(estimate.value),
        low=without_nan(check.low),
        high=without_nan(check.high),
        rows=estimate.rows,
        positives=estimate.positives,
        needed=() if check.state in ("pass", "fail") else tuple(still_needed(gate, estimate)),
        why_missing=estimate.why_missing,
        remark=estimate.remark,
        detail=without_nan(dict(estimate.detail)),
    )


def _rank(check: CheckRecord) -> int:
    return _WORST_FIRST.index(check.state)


def _room(gate: Gate, check: CheckRecord) -> float:
    """Return how far the figure is on the right side of the limit."""
    if check.value is None:
        return -math.inf
    room = check.value - gate.limit
    return -room if gate.comparator == "at_most" else room
