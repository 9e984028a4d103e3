"""Commands around the banks of known images: build, list, show, activate, roll back, switch entries, verify."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from rich.table import Table

from components.home import Home
from moderation.bank_index import Manifest
from moderation.bank_versions import Active, BankVersions
from moderation.clock import SystemClock
from moderation.errors import BankRejected
from moderation.policy import load_policies
from moderation.settings import settings
from tidegate.console import console, say
from tidegate.training import with_policies

_SHOWN: Final = 16
"""Characters of a version's name in a list: every command takes the beginning of one."""


def build(entries: Path, policies: Path | None, *, is_activated: bool) -> None:
    """Write the version of an entries file, and activate it if asked to.

    Raises:
        BankRejected: naming the wrong rows; nothing was changed.
    """
    versions = _versions()
    version = versions.build(entries, load_policies(with_policies(policies).policy_file).ids)
    _show_manifest(version, versions.verify(version))
    if is_activated:
        _activate(versions, version)
    else:
        say(f"next     tidegate banks activate {version}")


def show_all() -> None:
    """List every version, the oldest first; a damaged one says so."""
    versions = _versions()
    now = versions.active()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("version", "entries", "banks", ""):
        table.add_column(column)
    for name in versions.versions():
        role = "active" if now and now.version == name else ""
        try:
            facts = versions.open(Active(version=name))[0].manifest
        except BankRejected:
            table.add_row(name[:_SHOWN], "", "", f"damaged {role}".rstrip())
        else:
            banks = ", ".join(bank.name for bank in facts.banks)
            table.add_row(name[:_SHOWN], str(facts.num_entries), banks, role)
    console.print(table)
    if now is None:
        say("no version is active: gateways look no image up")


def show(beginning: str | None) -> None:
    """Say what is in a version, the active one if None, and what is switched.

    Raises:
        BankRejected: if it is absent or damaged, or none is active.
    """
    versions = _versions()
    version = _named(versions, beginning)
    _show_manifest(version, versions.open(Active(version=version))[0].manifest)
    now = versions.active()
    if now is None or now.version != version:
        return
    _show_active(now)
    for entry, held in sorted(versions.switches(now).entries.items()):
        said = "enabled" if held.is_enabled else "disabled"
        say(f"{said:<8} {entry}: {held.reason} ({held.by}, {held.at:%Y-%m-%d %H:%M})", markup=False)


def activate(beginning: str) -> None:
    """Make a version the active one; where what was active is lost, with the newest switches, and say so.

    Raises:
        BankRejected: if it is absent or damaged; the active one stays.
    """
    versions = _versions()
    _activate(versions, versions.named(beginning))


def roll_back() -> None:
    """Make the version before the active one active again.

    Raises:
        BankRejected: if there is none, or it is damaged; the active one stays.
    """
    _show_active(_versions().roll_back())


def switch(entries: Sequence[str], *, is_enabled: bool, reason: str, by: str) -> None:
    """Switch entries of the active version.

    Raises:
        BankRejected: if none is active, an entry is unknown, or reason or name are too short; nothing was changed.
    """
    try:
        state = _versions().switch(entries, is_enabled=is_enabled, reason=reason, by=by)
    except ValidationError as error:
        first = error.errors()[0]
        raise BankRejected(f"--{first['loc'][0]}: {first['msg']}; say more") from error
    _show_active(state)


def verify(beginning: str | None) -> None:
    """Verify a version, the active one if None.

    Raises:
        BankRejected: if it is absent or damaged, or none is active.
    """
    versions = _versions()
    version = _named(versions, beginning)
    _show_manifest(version, versions.verify(version))
    say("every byte is as it was built, and a sample of its entries finds itself")


def _versions() -> BankVersions:
    return BankVersions(Home(settings().home).banks, SystemClock())


def _named(versions: BankVersions, beginning: str | None) -> str:
    if beginning is not None:
        return versions.named(beginning)
    now = versions.active()
    if now is None:
        raise BankRejected("no version is active; name one, or activate one that was built")
    return now.version


def _activate(versions: BankVersions, version: str) -> None:
    was_known = versions.is_known()
    state = versions.activate(version)
    _show_active(state)
    if not was_known and state.switches:
        say(
            f"{versions.active_file} was gone or damaged: switches {state.switches}, the newest, were taken over;"
            " look at them with tidegate banks show",
            markup=False,
        )


def _show_active(state: Active) -> None:
    say(f"active   {state.version}, switches {state.switches}; gateways follow within a second")


def _show_manifest(version: str, facts: Manifest) -> None:
    say(f"version  {version}: {facts.num_entries} entries within {facts.radius} bits")
    for bank in facts.banks:
        kind = "known bad" if bank.kind == "match" else "known good"
        say(f"bank     {bank.name}: {bank.num_entries} {kind}", markup=False)
    if facts.num_low_quality:
        shown = ", ".join(facts.low_quality[:5])
        say(f"left out {facts.num_low_quality} whose hash says nothing: {shown}", markup=False)
