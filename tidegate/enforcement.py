"""Automatic enforcement of this home, from the command line: through the ledger, with or without running gateways."""

from pydantic import ValidationError

from components.home import Home
from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.errors import PermanentError
from moderation.release import load_release
from moderation.serving_rules import Heartbeat
from moderation.settings import settings
from serving.gateway.enforcement import Enforcement
from serving.gateway.heartbeat import read_beats
from serving.gateway.safeguards import GATEWAYS
from tidegate.console import say


def show() -> int:
    """Show the state and the gateways; return the exit code: 1 while stopped, 0 otherwise."""
    enforcement = _enforcement()
    enforcement.sync()
    state = enforcement.state
    say(
        "stopped" if state.is_stopped else "automatic", style="red" if state.is_stopped else "green"
    )
    if state.reason and state.change is None:
        say(f"  {state.reason}", markup=False)
    if state.change is not None:
        change = state.change
        at = f"{change.at:%Y-%m-%d %H:%M:%S} UTC"
        say(f"  number {change.number}, {at}, by {change.by} ({change.cause})", markup=False)
        say(f"  {change.reason}", markup=False)
    _show_gateways()
    return 1 if state.is_stopped else 0


def change(*, stop: bool, reason: str, by: str) -> None:
    """Stop it, or let it go on.

    Raises:
        NothingToChange: if it is so already.
        PermanentError: if reason or name are too short or too long.
        LedgerUnavailable: if that cannot be recorded now.
    """
    try:
        done = _enforcement().change(stop=stop, reason=reason, by=by)
    except ValidationError as error:
        first = error.errors()[0]
        raise PermanentError(f"{first['loc'][0]}: {first['msg']}") from error
    say(f"{done.state}; change {done.number} is in the ledger, gateways follow within a second")


def _enforcement() -> Enforcement:
    config = settings()
    rules = load_release(config.release_file).serving
    ledger = SqliteLedger(Home(config.home).ledger)
    return Enforcement(rules, ledger, SystemClock(), gateway="command")


def _show_gateways() -> None:
    config = settings()
    rules: Heartbeat | None = load_release(config.release_file).serving.heartbeat
    if rules is None:
        return
    now = SystemClock().now()
    for seen in read_beats(config.home / GATEWAYS, now, stale_s=rules.stale_s):
        beat = seen.beat
        told = "alive" if seen.is_alive else "gone"
        arms = ", ".join(
            f"{arm} {one.requests} ({one.in_flight} in flight)" for arm, one in beat.arms.items()
        )
        say(f"gateway {beat.gateway}: {told}, revision {beat.revision}, {arms}", markup=False)
        broken = [f"{name} {state}" for name, state in beat.breakers.items() if state != "closed"]
        if beat.spill is not None and (beat.spill.events or beat.spill.blobs):
            broken.append(f"{beat.spill.events} events and {beat.spill.blobs} blobs are spilled")
        if broken:
            say(f"  {', '.join(broken)}", style="yellow", markup=False)
