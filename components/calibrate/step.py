"""Signals of rows that no member was fitted on -> ensemble, thresholds, and what may pass without them."""

from dataclasses import dataclass
from pathlib import Path

from components.calibrate.reference import write_reference
from components.contract import read_contract
from components.policies import read_policies
from moderation.behaviour_prefilter import PrefilterEvidence
from moderation.calibration import fit_ensemble, solve_all
from moderation.embedded_rows import EmbeddedRows
from moderation.prefilter_fitting import fit_prefilter
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot
from moderation.thresholds import SolvedThresholds, TierEvidence, save_thresholds


@dataclass(frozen=True)
class CalibrateInputs:
    """Where the inputs of a calibration lie."""

    table: str
    embeddings: str
    model: str


def run(
    inputs: CalibrateInputs, policies: str, contract: str, seed: int, *, out: str, tiers: str
) -> dict[str, float]:
    """Write ensemble, thresholds, prefilter and reference profile to `out` and the table of tiers to `tiers`.

    Returns:
        For each policy and tier: 1 if it is open, and the share of traffic that it takes; of the prefilter the share
        that it lets go.
    """
    file = read_policies(policies)
    signals = SignalTable.load(Path(inputs.model) / "signals.npz")
    ensemble = fit_ensemble(signals, file, seed)
    solved = solve_all(signals, ensemble, file, seed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    ensemble.save(folder / "ensemble.json")
    save_thresholds(folder / "thresholds.json", solved)
    snapshot = Snapshot.open(Path(inputs.table))
    rules = read_contract(contract).serving.stage_1.behaviour
    prefilter = fit_prefilter(signals, snapshot.behaviour_NF(), rules)
    prefilter.save(folder / "prefilter.json")
    embedded = EmbeddedRows.open(Path(inputs.embeddings))
    write_reference(folder / "reference.json", snapshot, embedded, signals, (ensemble, solved))
    Path(tiers).parent.mkdir(parents=True, exist_ok=True)
    Path(tiers).write_text(markdown(solved) + prefilter_markdown(prefilter), encoding="utf-8")
    return _metrics(solved) | {"prefilter_share_let_go": prefilter.share_let_go}


def markdown(solved: tuple[SolvedThresholds, ...]) -> str:
    """Return the tiers of every policy as a table for a person."""
    lines = [
        "# Tiers",
        "",
        "A tier opens where a one-sided lower confidence bound shows its precision.",
        "",
        "| policy | tier | state | from | share of traffic | flags | lower bound | wanted | needed |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for policy in solved:
        lines += [_line(policy.policy, tier, found) for tier, found in policy.tiers.items()]
    return "\n".join(lines) + "\n"


def prefilter_markdown(prefilter: PrefilterEvidence) -> str:
    """Return what the behaviour prefilter lets go, and what it rests on, as a table for a person."""
    lines = [
        "",
        "# Behaviour prefilter",
        "",
        f"{prefilter}.",
        "",
        "| violations of | known | groups | missed | recall | lower bound | needed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.of} | {one.violations:,} | {one.groups:,} | {one.missed:,} | {one.recall:.4f} "
        f"| {one.lower_bound:.4f} | {one.needed:,} |"
        for one in prefilter.strata
    ]
    return "\n".join(lines) + "\n"


def _line(policy: str, tier: str, found: TierEvidence) -> str:
    threshold = "-" if found.threshold is None else f"{found.threshold:.4g}"
    needed = "-" if found.needed is None else f"{found.needed:,}"
    return (
        f"| {policy} | {tier} | {found.status} | {threshold} | {found.share:.4%} | {found.flags:,} "
        f"| {found.lower_bound:.3f} | {found.bound:.3f} | {needed} |"
    )


def _metrics(solved: tuple[SolvedThresholds, ...]) -> dict[str, float]:
    return {
        f"{policy.policy}_{tier}_{name}": value
        for policy in solved
        for tier, found in policy.tiers.items()
        for name, value in (
            ("open", float(found.threshold is not None)),
            ("share", float(found.share)),
        )
    }
