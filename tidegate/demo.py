"""The main job end to end, on one machine and in minutes, with everything shown as it happens."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import typer

from components.golden import build
from components.home import Home
from components.judge.outcome import Outcome
from components.policies import cut_off_of
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from marketplace.config import WorldConfig
from moderation import attestation
from moderation.attestation import Attestation
from moderation.bundle import Bundle
from moderation.clock import Clock, SystemClock
from moderation.errors import InvalidSnapshot, PermanentError
from moderation.golden import latest_golden
from moderation.policy import Tier, load_policies
from moderation.settings import Settings
from moderation.snapshot import Snapshot
from pipelines.local import RunResult
from pipelines.parameters import Choices, day_after_newest_truth
from tidegate.console import say, seconds
from tidegate.deciding import Answered, GatewayCaller, Listed, show_decisions
from tidegate.gates import show_outcome
from tidegate.importing import import_shown
from tidegate.releasing import contract_of, registry_of
from tidegate.serving import serving
from tidegate.training import run as run_pipeline
from tidegate.training import with_policies
from tidegate.usage import PeakMemory
from tidegate.world import build_shown, ending_by, unseen_listings

_NUM_PARTS: Final = 6
_NUM_SHOWN: Final = 12
_NUM_UNSEEN_DAYS: Final = 3

# A tenth of the default world has about a tenth of its violations, and a fifth of these is in the golden set; the
# pipeline's own minimum would refuse it.
_MIN_POSITIVES: Final = 5
_NUM_TRIALS: Final = 8

_RELEASE_PROFILE: Final = "demo"

_GIB: Final = 2**30


@dataclass(frozen=True)
class Prepared:
    """Data in the ledger, ready to train on."""

    config: Settings
    choices: Choices


def run(*, data: Path | None, mapping: Path | None, policies: Path | None, seed: int) -> None:
    """Run the main job on the simulated marketplace, or on the listings in `data`."""
    clock = SystemClock()
    began = clock.monotonic()
    with PeakMemory() as memory:
        # This home is for looking around: what passes under the weaker profile may answer in it, and nowhere else.
        config = with_policies(policies).model_copy(update={"release_profile": _RELEASE_PROFILE})
        if data is None:
            prepared = _simulated(config, seed, clock)
        else:
            prepared = _imported(data, config, mapping=mapping, policies=policies)
        _title(2, "golden set: what every candidate is judged on and none is trained on")
        show_golden(prepared)
        _title(3, "training and proof: the daily pipeline in Kubeflow Pipelines' local runner")
        result = run_pipeline(prepared.choices, prepared.config)
        home = Home(prepared.config.home)
        if data is None:
            listings = pick_listings(unseen_listings(home), seed)
        else:
            table = Snapshot.open(Path(result.outputs["table"]))
            listings = pick_listings(held_out_listings(table, ContentStore(home.content)), seed)
        _title(4, "verdict: the gates of the release contract, and the registry: MLflow on SQLite")
        bundle = _released(prepared.config, result)
        _title(5, "serving: KServe's model server and the gateway as processes on the loopback")
        rows = _decide(bundle, prepared.config, listings)
    show_decisions(rows)
    _say_how_good(rows)
    _say_where(prepared, bundle, result, rows)
    say(
        f"[bold]done[/] in {seconds(clock.monotonic() - began)}, "
        f"peak memory {memory.peak_bytes / _GIB:.1f} GiB with all processes"
    )


def _title(number: int, text: str) -> None:
    say(f"[bold]{number}/{_NUM_PARTS} {text}[/]")


def _simulated(config: Settings, seed: int, clock: Clock) -> Prepared:
    _title(1, "data: a simulated marketplace")
    world = ending_by(WorldConfig.demo(seed=seed), clock.now().date())
    home = Home(config.home)
    built = build_shown(
        world, home, load_policies(config.policy_file), num_unseen_days=_NUM_UNSEEN_DAYS
    )
    verb = "were there already" if built.was_there else "in the ledger"
    say(
        f"  {built.num_submissions:,} submissions of {world.days - _NUM_UNSEEN_DAYS} days {verb}; "
        f"{built.num_unseen} of the {_NUM_UNSEEN_DAYS} days after them are kept aside, unseen"
    )
    say(
        "  this is a smaller world than the default one (about a tenth: `tidegate simulate` builds that); "
        "its figures are rougher",
        style="yellow",
    )
    return Prepared(config, _choices(built.logical_date))


def _choices(logical_date: str | None = None) -> Choices:
    return Choices(
        logical_date,
        num_trials=_NUM_TRIALS,
        min_positives=_MIN_POSITIVES,
        release_profile=_RELEASE_PROFILE,
    )


def _imported(
    data: Path, config: Settings, *, mapping: Path | None, policies: Path | None
) -> Prepared:
    _title(1, f"data: your own listings in {data}")
    # Other policies, other sellers: never in the ledger of the simulated marketplace.
    home = config.home.with_name(f"{config.home.name}-{data.resolve().stem}")
    imported = import_shown(data, Home(home), config, mapping=mapping, policies=policies)
    own = config.model_copy(update={"home": home, "policy_file": imported.policy_file})
    return Prepared(own, _choices())


def show_golden(prepared: Prepared) -> None:
    """Build the golden set of the home unless it is there, and say what is in it."""
    home = Home(prepared.config.home)
    golden, verb = latest_golden(home.golden), "was there already"
    if golden is None:
        day = prepared.choices.logical_date or day_after_newest_truth(SqliteLedger(home.ledger))
        policies = load_policies(prepared.config.policy_file).ids
        rules = contract_of(prepared.config).golden
        try:
            golden, verb = build(home, cut_off_of(day), policies, rules), "drawn"
        except InvalidSnapshot as error:
            say(f"  none: {error}", style="yellow", markup=False)
            say("  the gates will say what cannot be judged without one", style="yellow")
            return
    say(f"  version {golden.version} {verb}: {golden.counts['items']:,} listings of whole sellers")
    say("  and campaigns; nothing of theirs, and no copy, is trained on")


def _released(config: Settings, result: RunResult) -> Bundle:
    """Return the bundle that answers: the one just made if it is proposed as a first release, else the champion."""
    outcome, registry = Outcome.load(result.outputs["outcome"]), registry_of(config)
    made = registry.version_of(outcome.bundle)
    say(f"  version {result.outputs['registered_version']}: bundle {outcome.bundle}")
    if made is not None:
        show_uncertified(attestation.read(registry.open(made))[-1])
    show_outcome(outcome, config, aliases=made.aliases if made else ())
    champion = registry.champion()
    if champion is None:
        say("nothing may answer: no bundle has passed the gates yet", style="bold red")
        raise typer.Exit(1)
    if champion.digest != outcome.bundle:
        say(f"  the champion stays {champion.digest}")
    return registry.open(champion)


def show_uncertified(said: Attestation) -> None:
    """Say how many gates passed, and name those that the data at hand could not settle."""
    counts = Counter(verdict.verdict for verdict in said.verdicts)
    told = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in counts.items())
    say(f"  {len(said.verdicts)} gates: {told}")
    open_gates = [v.gate for v in said.verdicts if v.verdict != "pass" and not v.blocks]
    if open_gates:
        say(f"  not shown at this size, and let off: {', '.join(open_gates)}", style="yellow")
        say("  what each would take: tidegate gates show, or the evidence pack", style="yellow")


def _decide(
    bundle: Bundle, config: Settings, listings: Sequence[Listed]
) -> list[tuple[Listed, Answered]]:
    with serving(bundle, config) as served:
        say(f"  gateway {served.gateway.http_url}, predictor {served.predictor.url}")
        _title(6, f"decisions: {len(listings)} unseen listings through the gateway")
        with GatewayCaller(served.gateway.url, served.token) as caller:
            return [(listed, caller.decide(listed)) for listed in listings]


def pick_listings(listings: Sequence[Listed], seed: int) -> list[Listed]:
    """Return a mix in which every policy is violated by some and at least half are clean."""
    if not listings:
        raise PermanentError("there is no unseen listing to show; import a test split too")
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[Listed]] = {}
    for index in rng.permutation(len(listings)):
        listed = listings[int(index)]
        kind = next((policy for policy, violates in listed.truth.items() if violates), "")
        kinds.setdefault(kind, []).append(listed)
    guilty = [kind for kind in sorted(kinds) if kind]
    each = _NUM_SHOWN // 2 // max(len(guilty), 1)
    chosen = [listed for kind in guilty for listed in kinds[kind][:each]]
    return chosen + kinds.get("", [])[: _NUM_SHOWN - len(chosen)]


def held_out_listings(table: Snapshot, store: ContentStore) -> list[Listed]:
    """Return the snapshot's test rows as listings; no model, calibration or threshold was fitted on them."""
    fields = ("listing_id", "title", "description", "price", "currency", "region", "language")
    columns = [*fields, "role", "truth", "image_digests"]
    found = []
    for batch in table.batches(columns):
        for row in batch.to_pylist():
            if row["role"] == "test":
                found.append(_to_listed(row, fields, table.policy_ids, store))
    return found


def _to_listed(
    row: dict[str, Any], fields: Sequence[str], policies: Sequence[str], store: ContentStore
) -> Listed:
    listing = {name: row[name] for name in fields if row[name] is not None}
    known = zip(policies, row["truth"], strict=True)
    truth = {policy: value == 1 for policy, value in known if value >= 0}
    return Listed(listing, [store.get(digest) for digest in row["image_digests"]], truth)


def _say_how_good(rows: Sequence[tuple[Listed, Answered]]) -> None:
    held = {True: 0, False: 0}
    total = {True: 0, False: 0}
    for listed, answered in rows:
        violates = any(listed.truth.values())
        total[violates] += 1
        held[violates] += Tier[answered.content["tier"].upper()] >= Tier.REVIEW
    say(
        f"  {held[True]} of {total[True]} violations and {held[False]} of {total[False]} clean listings were held "
        "or stopped; a handful shows how it works, the report shows how well"
    )


def _say_where(
    prepared: Prepared,
    bundle: Bundle,
    result: RunResult,
    rows: Sequence[tuple[Listed, Answered]],
) -> None:
    config, home = prepared.config, Home(prepared.config.home)
    settings = f"TIDEGATE__HOME={config.home} TIDEGATE__POLICY_FILE={config.policy_file}"
    settings += f" TIDEGATE__RELEASE_FILE={config.release_file}"
    settings += f" TIDEGATE__RELEASE_PROFILE={config.release_profile}"
    trace_id = rows[0][1].content["trace_id"]
    mlflow = Path(sys.executable).with_name("mlflow")
    # As it was called: without an activated environment the bare name would not be found.
    own = sys.argv[0] if Path(sys.argv[0]).name == "tidegate" else "python -m tidegate"
    lines = (
        ("report", home.reports / bundle.digest / "report.html"),
        ("evidence", home.pack(bundle.digest) / "index.html"),
        ("bundle", f"{home.bundles / bundle.digest} ({own} bundle show <path>)"),
        ("decisions", f"{home.ledger} ({settings} {own} replay {trace_id})"),
        ("registry", f"{mlflow} ui --backend-store-uri {home.tracking_url}"),
        ("pipeline", result.log),
        ("serve again", f"{settings} {own} serve (prints the address of the API's docs)"),
    )
    for name, value in lines:
        say(f"  {name:<12}{value}", markup=False)
