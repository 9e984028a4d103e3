"""The gates as commands: judge a bundle, show the contract and a verdict, and make a candidate champion."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import Final, TextIO

from rich.markup import escape
from rich.table import Table

from components.home import Home
from components.judge.outcome import Outcome
from components.registry import ModelVersion, Registry
from moderation import attestation
from moderation.attestation import GATES, Attestation
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from moderation.release import STANDARD, Gate
from moderation.settings import Settings, settings
from pipelines.parameters import contract_text, policy_text
from tidegate.console import console, say
from tidegate.releasing import (
    CANDIDATE,
    CHAMPION,
    contract_of,
    kept_bundle,
    named_bundle,
    registry_of,
)

NONE: Final = "none"
_COLOURS: Final = {
    "pass": "green",
    "fail": "bold red",
    "no_data": "red",
    "not_certified": "yellow",
    "proposed": "bold green",
    "blocked": "bold red",
}
_PROGRESS: Final = "@progress "


def run_gates(
    bundle: str, *, champion: str | None, table: Path | None, profile: str, seed: int
) -> int:
    """Prove and judge a bundle as the pipeline does; return the exit code: 0 proposed, 1 blocked.

    Judged against the registry's own champion, the outcome is recorded there, with the names that follow from it.
    Against another one, or under a profile that this home does not accept, it is attested all the same, but makes
    nothing a candidate, and gives no champion its right to be served.

    Raises:
        TidegateError: if it could not be judged; exit code 2.
    """
    from components.judge import step as judging
    from components.prove import step as proving

    config = settings()
    home, found, registry = Home(config.home), named_bundle(bundle, config), registry_of(config)
    opponent = _opponent(found, champion, registry, config)
    contract = contract_text(config.release_file, profile)
    policies = policy_text(config.policy_file)
    rows = table or table_of(found, registry)
    evidence = home.reports / found.digest / "evidence"
    inputs = proving.ProveInputs(
        str(found.folder),
        str(opponent.folder) if opponent else "",
        str(rows),
        str(home.folder),
        profile,
    )
    say(f"candidate {found.digest}")
    say(f"champion  {opponent.digest if opponent else 'none: absolute gates only'}")
    with _progress_lines():
        proving.run(inputs, contract, policies, seed, out=str(evidence))
        outcome = judging.run(
            judging.JudgeInputs(str(evidence), str(found.folder), str(home.folder)),
            contract,
            profile,
            seed,
            pack=str(home.pack(found.digest)),
        )
    settles = champion is None and profile in (STANDARD, config.release_profile)
    version = registry.settle(outcome, [home.pack(found.digest)]) if settles else None
    show_attestation(kept_bundle(found, home))
    show_outcome(outcome, config, aliases=version.aliases if version else ())
    if champion is not None and registry.champion() is not None:
        say(
            "note     the champion to compare with was named here: that alone releases nothing which the registry "
            "would have compared with another",
            style="yellow",
        )
    return 0 if outcome.state == "proposed" else 1


def show_contract() -> None:
    """Print every gate of the release contract with its limit."""
    config = settings()
    contract = contract_of(config)
    say(f"contract {config.release_file}, version {contract.version}, {contract.digest[:12]}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("gate", no_wrap=True)
    for column in ("what must be shown", "on at least", "if it is not"):
        table.add_column(column, overflow="fold")
    for gate in contract.gates:
        shown = f"{_subject(gate)} {_wanted(gate)}\n[dim]{escape(gate.why)}[/]"
        table.add_row(gate.id, shown, _sample(gate), gate.uncertified)
    console.print(table)
    say(f"objective {contract.promotion.objective}: a candidate must be better at this")
    say(
        f"a good candidate fails any of them with a chance of {contract.risk.block_good:.0%} at most"
    )
    for name, profile in contract.profiles.items():
        if profile.report_all_but is not None:
            kept = ", ".join(profile.report_all_but) or "none"
            say(f"profile {name}: {profile.says}; not certified, only these block: {kept}")


def show_verdict(bundle: str) -> None:
    """Print what the gates last said of a bundle.

    Raises:
        PermanentError: if they never judged it.
    """
    config = settings()
    home, found = Home(config.home), named_bundle(bundle, config)
    kept = kept_bundle(found, home)
    said = show_attestation(kept)
    if said.contract != contract_of(config).digest:
        say(
            f"judged under another contract than the one in force: tidegate gates run --bundle {kept.folder}",
            style="yellow",
        )
    page = home.pack(found.digest) / "index.html"
    if page.is_file():
        say(f"pack     {page}")


def promote(bundle: str) -> None:
    """Make a judged bundle the champion; the one before may come back the same way.

    Raises:
        PermanentError: if it is not registered.
        GateRejected: if no attestation of it passes under the contract in force.
    """
    config = settings()
    registry, contract = registry_of(config), contract_of(config)
    version = _version_of(bundle, registry, config)
    before = registry.champion()
    if CHAMPION in version.aliases:
        say(f"{version.digest} is the champion already")
        return
    registry.set_alias(CHAMPION, version.version, contract=contract.digest)
    say(f"champion {version.digest}, version {version.version}")
    if before is not None:
        say(f"undo     tidegate gates promote {before.digest}")
    say("next     tidegate serve (what is served now stays until it is started again)")


def show_attestation(bundle: Bundle) -> Attestation:
    """Print the newest verdicts about a bundle and return them.

    Raises:
        PermanentError: if the gates never judged it.
    """
    judged = [said for said in attestation.read(bundle) if said.kind == GATES]
    if not judged:
        raise PermanentError(
            f"bundle {bundle.digest[:12]} was never judged by the gates; "
            f"run `tidegate gates run --bundle {bundle.folder}`"
        )
    said = judged[-1]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("gate", no_wrap=True)
    for column in ("verdict", "", "reason"):
        table.add_column(column, overflow="fold")
    for verdict in sorted(said.verdicts, key=lambda one: (not one.blocks, one.verdict == "pass")):
        state = f"[{_COLOURS.get(verdict.verdict, 'white')}]{verdict.verdict.replace('_', ' ')}[/]"
        stops = "[red]blocks[/]" if verdict.blocks else ""
        table.add_row(verdict.gate, state, stops, escape(verdict.reason))
    console.print(table)
    for note in said.notes:
        say(f"note     {note}", style="yellow", markup=False)
    for policy, tier in sorted(said.caps.items()):
        say(f"closed   {policy}: {tier} and stronger, not certified", style="yellow", markup=False)
    state = "proposed" if said.is_passing else "blocked"
    say(f"verdict  [{_COLOURS[state]}]{state}[/] at {said.created_at:%Y-%m-%d %H:%M} UTC")
    return said


def show_outcome(outcome: Outcome, config: Settings, *, aliases: tuple[str, ...]) -> None:
    """Print where a run of the gates ended, why, and what to do next."""
    home = Home(config.home)
    contract = contract_of(config)
    says = contract.profiles[outcome.profile].says if outcome.profile in contract.profiles else ""
    if says:
        say(f"profile  {outcome.profile}: {says}", style="yellow", markup=False)
    named = f", {' and '.join(aliases)} of the registry" if aliases else ""
    strict = config.release_profile == STANDARD
    accepting = "" if strict else f"TIDEGATE__RELEASE_PROFILE={config.release_profile} "
    say(f"gates    [{_COLOURS[outcome.state]}]{outcome.state}[/]{named}")
    for reason in outcome.reasons:
        say(f"  blocked by {reason}", markup=False)
    say(f"pack     {home.pack(outcome.bundle) / 'index.html'}")
    if outcome.state == "blocked":
        say("next     read the pack: it says what each gate would take; then tidegate train again")
    elif outcome.profile not in (STANDARD, config.release_profile):
        say(f"next     nothing: a pass under {outcome.profile} does not count in this home")
    elif CANDIDATE in aliases:
        say(f"next     read the pack, then {accepting}tidegate gates promote")
    else:
        say(f"next     {accepting}tidegate serve")


def _opponent(
    found: Bundle, champion: str | None, registry: Registry, config: Settings
) -> Bundle | None:
    if champion == NONE:
        return None
    if champion is None:
        version = registry.opponent_of(found.digest)
        return None if version is None else registry.open(version)
    opponent = named_bundle(champion, config)
    if opponent.digest == found.digest:
        raise PermanentError(
            f"{found.digest[:12]} would be compared with itself, which proves nothing; name another champion"
        )
    return opponent


def table_of(bundle: Bundle, registry: Registry) -> Path:
    """Return the snapshot that a bundle was trained on, where the registry says it lies."""
    version = registry.version_of(bundle.digest)
    table = Path(version.tags.get("table", "")) if version else Path()
    if version is None or not table.is_dir() or table == Path():
        raise PermanentError(
            f"the snapshot {bundle.manifest.inputs.snapshot[:12]} that bundle {bundle.digest[:12]} was trained on is "
            "not known here; name its folder with --table"
        )
    return table


def _version_of(bundle: str, registry: Registry, config: Settings) -> ModelVersion:
    if bundle == CANDIDATE:
        version = registry.named("candidate")
        if version is None:
            raise PermanentError(
                "no version is candidate; `tidegate train` ends in one, or says why not"
            )
        return version
    found = named_bundle(bundle, config)
    version = registry.version_of(found.digest)
    if version is None:
        raise PermanentError(
            f"bundle {found.digest[:12]} is not registered; `tidegate train` does it"
        )
    return version


def _subject(gate: Gate) -> str:
    tier = f" of tier {gate.tier}" if gate.tier else ""
    slices = f" by {', '.join(gate.slices)}" if gate.slices else ""
    return f"{gate.measure.replace('_', ' ')}{tier} on {gate.set}{slices}"


def _wanted(gate: Gate) -> str:
    beside = " beside the champion's" if gate.versus == "champion" else ""
    return f"{gate.comparator.replace('_', ' ')} {gate.limit:g}{beside}, at {gate.confidence:.0%}"


def _sample(gate: Gate) -> str:
    needs = [f"{gate.min_rows} rows"] if gate.min_rows > 1 else []
    needs += [f"{gate.min_positives} positives"] if gate.min_positives else []
    return " and ".join(needs) or "-"


class _Lines(TextIOBase):
    """Turns a step's progress lines into lines for a person."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            told = line.removeprefix(_PROGRESS)
            if told != line:
                count, _, note = told.partition(" ")
                done, _, total = count.partition("/")
                told = f"  {note.strip() or 'step'}: {done} of {total}\n"
            self._sink.write(told)
        self._sink.flush()
        return len(text)


@contextmanager
def _progress_lines() -> Iterator[None]:
    with redirect_stdout(_Lines(sys.stdout)):
        yield
