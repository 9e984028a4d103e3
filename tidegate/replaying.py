"""Taking one recorded decision again."""

from pathlib import Path

from components.home import Home
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.errors import PermanentError
from moderation.policy import load_policies
from moderation.scoring import Scorer
from serving import replay
from tidegate.console import say
from tidegate.training import with_policies


def replay_decision(trace_id: str, bundle: Path | None, policies: Path | None) -> int:
    """Show whether a decision replays; return the exit code: 0 if it does, 1 if not.

    Raises:
        PermanentError: if the decision is unknown, or its bundle is gone.
    """
    config = with_policies(policies)
    home = Home(config.home)
    ledger = SqliteLedger(home.ledger)
    decision = ledger.get_decision(trace_id)
    if decision is None:
        raise PermanentError(f"no decision has the trace id {trace_id}")
    folder = bundle
    if folder is None and decision.versions.bundle is not None:
        folder = home.bundles / decision.versions.bundle
    report = replay.replay_decision(
        trace_id,
        ledger,
        store=ContentStore(home.content),
        scorer=Scorer.load(folder, config.num_threads) if folder else None,
        policies=load_policies(config.policy_file),
    )
    exact = "[green]bit for bit[/]" if report.is_exact else "[red]differs[/]"
    say(f"from its recorded signals: {exact}")
    for difference in report.differences:
        say(f"  {difference}", markup=False)
    if report.max_error is not None:
        close = "[green]within[/]" if report.is_close else "[red]beyond[/]"
        say(
            f"scored again from its inputs: {close} {replay.TOLERANCE:g}, largest difference {report.max_error:.2e}"
        )
    for crossing in report.crossings:
        say(f"  crossing: {crossing}", markup=False)
    return 0 if report.is_exact and report.is_close else 1
