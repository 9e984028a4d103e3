"""What the behaviour prefilter lets go: reviewed uploads of the ledger, the chance of each, and the floor."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import numpy as np
from rich.table import Table

from components.home import Home
from components.ingest.rows import established_by
from ledger.events import to_decision
from ledger.ledger import Ledger, SqliteLedger
from moderation.behaviour_prefilter import NEW_SELLER
from moderation.clock import SystemClock
from moderation.decision import Decision
from moderation.gates.slicing import is_evasive
from moderation.listing import Submission
from moderation.policy import load_policies
from moderation.prefilter_audit import AuditedRecall, Outcome, Reviewed, audit_recall
from moderation.release import load_release
from moderation.serving_rules import BehaviourRules
from moderation.settings import settings
from moderation.snapshot_rows import is_immature, links_of
from moderation.splitting import group_rows
from moderation.stage_1 import floors
from serving.gateway.behaviour_stage import NAME
from tidegate.console import console, say

EVASIVE: Final = "evasive"
_STYLES: Final[dict[Outcome, str]] = {
    "shown": "green",
    "broken": "red",
    "not shown": "yellow",
    "no data": "yellow",
}

Way = Literal["goes on", "drawn", "let go"]


@dataclass(frozen=True)
class _Row:
    """An upload that went on past an open prefilter, and its truth."""

    truth: dict[str, bool]
    is_drawn: bool
    random_share: float
    propensity: float
    submission: Submission

    @property
    def hides(self) -> bool:
        listing = self.submission.listing
        texts = listing.title, listing.description
        return any(self.truth.values()) and is_evasive(self.submission.attributes, *texts)


@dataclass
class Audited:
    """What the ledger knows of the uploads that a prefilter judged."""

    rows: list[_Row] = field(default_factory=list)
    let_go: int = 0
    """Violations that were let go and became known all the same, by a report or an audit; no part of an estimate."""

    def recalls(self, policies: tuple[str, ...], rules: BehaviourRules) -> Iterator[AuditedRecall]:
        """Yield what is known of the recall under each policy, and of evasive violations."""
        group_N = group_rows([list(links_of(row.submission)) for row in self.rows])
        for policy in (*policies, EVASIVE):
            is_of_all = policy == EVASIVE
            chosen = [n for n, row in enumerate(self.rows) if is_of_all or policy in row.truth]
            rows = [self.rows[n] for n in chosen]
            reviewed = Reviewed(
                np.array([row.hides if is_of_all else row.truth[policy] for row in rows], bool),
                np.array([row.is_drawn for row in rows], bool),
                np.array([row.random_share for row in rows], np.float64),
                np.array([row.propensity for row in rows], np.float64),
                group_N[chosen],
            )
            yield audit_recall(policy, reviewed, floor=rules.recall, confidence=rules.confidence)


def run_audit(days: int | None) -> int:
    """Print the recall of the prefilter against its floor; return the exit code.

    Args:
        days: looks at uploads that were decided in so many days until now; None for all.

    Returns:
        0: every floor is shown to be kept. 1: one is shown to be broken. 2: neither, as where there is no data.
    """
    config = settings()
    rules = load_release(config.release_file).serving.stage_1.behaviour
    policies = tuple(load_policies(config.policy_file).ids)
    now = SystemClock().now()
    since = None if days is None else now - timedelta(days=days)
    found = read_audited(SqliteLedger(Home(config.home).ledger), policies, now, since=since)
    recalls = list(found.recalls(policies, rules))
    _show(recalls, rules)
    say(
        f"{len(found.rows)} reviewed uploads had passed an open prefilter; {found.let_go} violations that it let go "
        "became known otherwise and are not in the estimate"
    )
    outcomes = {one.outcome for one in recalls}
    if "broken" in outcomes:
        say("a floor is broken: close the prefilter, or train another one", style="red")
        return 1
    if outcomes != {"shown"}:
        say("not every floor is shown to be kept; nothing is shown to be broken", style="yellow")
        return 2
    say("every floor is kept", style="green")
    return 0


def read_audited(
    ledger: Ledger, policies: tuple[str, ...], cut_off: datetime, *, since: datetime | None = None
) -> Audited:
    """Return what a ledger knows, at `cut_off`, of uploads that an open prefilter judged and whose truth is mature.

    Args:
        ledger: decisions, and what was established of them.
        policies: whose truth is wanted.
        cut_off: nothing that became known later counts.
        since: decisions from before are left out.
    """
    found = Audited()
    for submission_id, known in established_by(ledger, cut_off, policies).items():
        stored = ledger.get_event(f"decision:{submission_id}")
        submission = ledger.get_submission(submission_id)
        if stored is None or submission is None or is_immature(submission, cut_off):
            continue
        decision = to_decision(stored.event)
        if since is not None and decision.decided_at < since:
            continue
        way, share = _way(decision)
        if way == "let go":
            found.let_go += any(known.violates.values())
        elif way is not None:
            propensity = known.propensity * submission.inclusion_probability
            row = _Row(known.violates, way == "drawn", share, propensity, submission)
            found.rows.append(row)
    return found


def _way(decision: Decision) -> tuple[Way | None, float]:
    """Return how an upload came past an open prefilter, and the chance of its draw; None where none could judge it.

    New sellers go on by rule. An upload that another stage raised would have gone on anyway, whatever its draw. Of a
    time in which a stage failed, nobody was let go, so that neither its draws nor the rest stand for anybody.
    """
    signals = decision.stage_1.signals if decision.stage_1 else ()
    signal = next((one for one in signals if one.name == NAME), None)
    if signal is None or (signal.status != "ok" and signal.reason != NEW_SELLER):
        return None, 1.0
    if not signal.is_decisive and any(one.status == "error" for one in signals):
        return None, 1.0
    drawn = next((one for one in signal.found if one.get("was_random")), None)
    if floors(signals) or not (signal.is_decisive or drawn):
        return "goes on", 1.0
    return ("drawn", float(drawn["random_share"])) if drawn else ("let go", 1.0)


def _show(recalls: list[AuditedRecall], rules: BehaviourRules) -> None:
    table = Table(
        "violations",
        f"{rules.recall:g} go on",
        "recall",
        "between",
        "reviewed",
        "violating",
        "missed, drawn",
        "still to review",
        title=f"What the behaviour prefilter lets go; bounds hold at {rules.confidence:.0%} each",
    )
    for one in recalls:
        has_data = one.recall is not None
        table.add_row(
            one.of,
            f"[{_STYLES[one.outcome]}]{one.outcome}[/]",
            f"{one.recall:.4f}" if has_data else "",
            f"{one.lower:.4f} and {one.upper:.4f}" if has_data else "",
            str(one.rows),
            str(one.violations),
            str(one.missed),
            _more(one),
        )
    console.print(table)


def _more(one: AuditedRecall) -> str:
    if one.more is None:
        return "no number" if one.recall is not None else ""
    return f"{one.more:,}" if one.recall is not None else f"{one.more:,} violations or more"
