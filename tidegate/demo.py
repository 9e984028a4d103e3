"""The main job end to end, on one machine and in minutes, with everything shown as it happens."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from components.home import Home
from ledger.store import ContentStore
from marketplace.config import WorldConfig
from moderation.bundle import Bundle
from moderation.clock import Clock, SystemClock
from moderation.errors import PermanentError
from moderation.policy import Tier, load_policies
from moderation.settings import Settings
from moderation.snapshot import Snapshot
from pipelines.local import RunResult
from pipelines.parameters import Choices
from tidegate.console import say, seconds
from tidegate.deciding import Answered, GatewayCaller, Listed, show_decisions
from tidegate.importing import import_shown
from tidegate.serving import chosen_bundle, serving
from tidegate.training import run as run_pipeline
from tidegate.training import with_policies
from tidegate.usage import PeakMemory
from tidegate.world import build_shown, ending_by, unseen_listings

_NUM_SHOWN: Final = 12
_NUM_UNSEEN_DAYS: Final = 3

# A tenth of the default world has about a tenth of its violations; the pipeline's own minimum would refuse it.
_MIN_POSITIVES: Final = 10
_NUM_TRIALS: Final = 8

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
        config = with_policies(policies)
        if data is None:
            prepared = _simulated(config, seed, clock)
        else:
            prepared = _imported(data, config, mapping=mapping, policies=policies)
        _title(2, "training: the daily pipeline in Kubeflow Pipelines' local runner")
        result = run_pipeline(prepared.choices, prepared.config)
        home = Home(prepared.config.home)
        if data is None:
            listings = pick_listings(unseen_listings(home), seed)
        else:
            table = Snapshot.open(Path(result.outputs["table"]))
            listings = pick_listings(held_out_listings(table, ContentStore(home.content)), seed)
        bundle = _registered(prepared.config, result)
        _title(4, "serving: KServe's model server and the gateway as processes on the loopback")
        rows = _decide(bundle, prepared.config, listings)
    show_decisions(rows)
    _say_how_good(rows)
    _say_where(prepared, bundle, result, rows)
    say(
        f"[bold]done[/] in {seconds(clock.monotonic() - began)}, "
        f"peak memory {memory.peak_bytes / _GIB:.1f} GiB with all processes"
    )


def _title(number: int, text: str) -> None:
    say(f"[bold]{number}/5 {text}[/]")


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
    choices = Choices(built.logical_date, num_trials=_NUM_TRIALS, min_positives=_MIN_POSITIVES)
    return Prepared(config, choices)


def _imported(
    data: Path, config: Settings, *, mapping: Path | None, policies: Path | None
) -> Prepared:
    _title(1, f"data: your own listings in {data}")
    # Other policies, other sellers: never in the ledger of the simulated marketplace.
    home = config.home.with_name(f"{config.home.name}-{data.resolve().stem}")
    imported = import_shown(data, Home(home), config, mapping=mapping, policies=policies)
    own = config.model_copy(update={"home": home, "policy_file": imported.policy_file})
    return Prepared(own, Choices(num_trials=_NUM_TRIALS, min_positives=_MIN_POSITIVES))


def _registered(config: Settings, result: RunResult) -> Bundle:
    _title(3, "registry: MLflow on SQLite")
    champion = chosen_bundle(None, config)
    made = result.outputs["digest"]
    say(f"  version {result.outputs['registered_version']}: bundle {made}")
    if champion.digest == made:
        say("  it is the champion: the first of its registry, with nothing to compare it with")
    else:
        say(f"  it is the candidate; the champion stays {champion.digest}")
    return champion


def _decide(
    bundle: Bundle, config: Settings, listings: Sequence[Listed]
) -> list[tuple[Listed, Answered]]:
    with serving(bundle, config) as served:
        say(f"  gateway {served.gateway.http_url}, predictor {served.predictor.url}")
        _title(5, f"decisions: {len(listings)} unseen listings through the gateway")
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
    trace_id = rows[0][1].content["trace_id"]
    mlflow = Path(sys.executable).with_name("mlflow")
    # As it was called: without an activated environment the bare name would not be found.
    own = sys.argv[0] if Path(sys.argv[0]).name == "tidegate" else "python -m tidegate"
    lines = (
        ("report", home.reports / bundle.digest / "report.html"),
        ("bundle", f"{home.bundles / bundle.digest} ({own} bundle show <path>)"),
        ("decisions", f"{home.ledger} ({settings} {own} replay {trace_id})"),
        ("registry", f"{mlflow} ui --backend-store-uri {home.tracking_url}"),
        ("pipeline", result.log),
        ("serve again", f"{settings} {own} serve (prints the address of the API's docs)"),
    )
    for name, value in lines:
        say(f"  {name:<12}{value}", markup=False)
