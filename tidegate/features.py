"""Commands around the feature store: set it up, stream events into it, look at a seller, at what was refused."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import FrameType

from rich.table import Table

from components.home import Home
from components.policies import cut_off_of
from featurestore.following import follow
from featurestore.layout import Place, without_secrets
from featurestore.letters import Reason
from featurestore.model_services import ModelFeatures, apply_services, check_features
from featurestore.online import OnlineReader, open_rows
from featurestore.profile import PROFILE, write_profiles
from featurestore.records import RecordStep, RecordStream, letters_of_records, open_records
from featurestore.repository import apply, open_store
from featurestore.retention import RETENTION, prune
from featurestore.stream import FeatureStream, Step
from featurestore.writer import letters_of, open_stream, writing
from ledger.ledger import SqliteLedger
from moderation.bundle_files import read_manifest
from moderation.clock import SystemClock
from moderation.errors import BundleRejected, PermanentError
from moderation.features import FEATURES
from moderation.listing import Listing, Submission
from moderation.manifest import MANIFEST, parse_manifest
from moderation.settings import settings
from tidegate.console import console, say

_LETTERS_SHOWN = 20
_BUDGET_S = 1.0
_BEHIND = timedelta(minutes=5)


def set_up() -> None:
    """Put this release's definitions into force and say how to look at them.

    Raises:
        FeaturesNotReady: if the online store cannot be reached.
    """
    place = _place()
    store = apply(place)
    online = without_secrets(place.redis_url) if place.redis_url else place.online_file
    views = sorted(view.name for view in store.list_feature_views())
    say(f"store    {place.folder}, online in {online}")
    say(f"views    {', '.join(views)}")
    services = apply_services(store, _models(Home(settings().home)))
    say(f"services {', '.join(services) or 'none: there is no bundle yet'}")
    say("next     tidegate features stream --once")
    say(f"look     feast -f {place.config_file} ui --host 127.0.0.1")
    say(f"monitor  cd {place.folder} && feast -f {place.config_file} monitor run -v {PROFILE}")


def _models(home: Home) -> list[ModelFeatures]:
    """Return what each bundle of a home reads; say of one that this release cannot serve."""
    found = []
    for path in sorted(home.bundles.glob(f"*/{MANIFEST}")):
        try:
            manifest, _ = parse_manifest(read_manifest(path))
            model = ModelFeatures(manifest.digest(), manifest.features)
            check_features(model)
        except BundleRejected as error:
            say(f"[yellow]refused[/]  {path.parent.name[:12]}: {error}")
        else:
            found.append(model)
    return found


def stream(*, once: bool, every_s: float) -> None:
    """Follow the ledger into the feature store until a signal comes, or once.

    Raises:
        FeaturesNotReady: if nothing was set up.
        FeatureStoreUnavailable: with `once`, if the online store cannot be written; otherwise it is tried again.
    """
    with _streams() as (activity, records):
        if once:
            _say_step(activity.step())
            _say_records(records.step())
        else:
            _follow(activity, records, every_s)


def _follow(activity: FeatureStream, records: RecordStream, every_s: float) -> None:
    stop = threading.Event()

    def stopped(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, stopped)
    say(f"following the ledger every {every_s:g} s; stop it with Ctrl-C")

    def told(done: Step | RecordStep) -> None:
        if isinstance(done, RecordStep):
            if done.decisions or done.truths or done.refused:
                _say_records(done)
        elif done.events or done.refused or done.erased:
            _say_step(done)

    def behind(error: Exception) -> None:
        say(f"[yellow]behind[/]  {error}; trying again")

    follow(activity, records, stop, every_s=every_s, on_step=told, on_failure=behind)


def show(seller: str, device: str | None, address: str | None) -> None:
    """Show what a gate would read of a seller now.

    Raises:
        FeaturesNotReady: if nothing was set up.
        FeatureStoreUnavailable: if the store does not answer.
    """
    now = SystemClock().now()
    listing = Listing(
        listing_id="question",
        seller_id=seller,
        device_fingerprint=device,
        address_fingerprint=address,
    )
    reader = OnlineReader(open_rows(_place(), _BUDGET_S))
    try:
        asked = Submission(submission_id="question", listing=listing, submitted_at=now)
        read = reader.read(asked)
    finally:
        reader.close()
    table = Table("feature", "value", "meaning", title=f"seller {seller}")
    for feature, value in zip(FEATURES, read.behaviour_F.tolist(), strict=True):
        known = "stale" if feature.name in read.stale else "unknown"
        table.add_row(feature.name, known if value != value else f"{value:g}", feature.meaning)
    console.print(table)
    say(f"newest   {read.newest.isoformat() if read.newest else 'nothing of this seller is known'}")
    say(f"lag      {read.lag_s:.1f} s behind the stream")


def skew(day: str | None) -> None:
    """Compare what the decisions of one day used with what the history says was known; without a day, of today.

    Raises:
        FeatureStoreUnavailable: if the feature store cannot be brought up to date now.
        PermanentError: if the day is no date.
    """
    from components.skew import step

    logical_date = day or f"{SystemClock().now() + timedelta(days=1):%Y-%m-%d}"
    done = step.run(str(settings().home), logical_date)
    say(f"decisions of the day before {logical_date}: {done.num_decisions}. {done.lag.said}")
    table = Table()
    table.add_column("feature", no_wrap=True)
    for title in ("equal", "lag", "unread", "other", "lost", "extra", "gap"):
        table.add_column(title, justify="right")
    for one in sorted(done.rows, key=lambda row: -row.differing):
        counts = (one.equal, one.lagging, one.unread, one.skewed, one.missing_in_serving)
        cells = [f"{count}" for count in (*counts, one.missing_in_history)]
        table.add_row(one.feature, *cells, f"{one.largest:g}")
    console.print(table)
    say("lag      what the stream had come to; unread: stale or unreadable, the decision says so")
    say(
        "other, lost, extra: another value than was known (gap: by how much at most), none, one where none was"
    )
    for trace in dict.fromkeys(trace for one in done.rows for trace in one.examples):
        say(f"differs  {trace}: tidegate replay shows it", style="yellow")


def refused() -> None:
    """Show the events that the stream refused and that were not counted since."""
    kept = (letters_of(_place()), letters_of_records(_place()))
    waiting = [letter for letters in kept for letter in letters.waiting()]
    counts = _num_waiting()
    if not waiting:
        say("no event was refused")
        return
    table = Table("sequence", "event", "reason", "why")
    for letter in waiting[:_LETTERS_SHOWN]:
        table.add_row(str(letter.sequence), letter.event_id, letter.reason, letter.detail)
    console.print(table)
    if len(waiting) > _LETTERS_SHOWN:
        say(f"and {len(waiting) - _LETTERS_SHOWN} more")
    say("in all   " + ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())))
    say("next     tidegate features replay, with --waive for what you looked into")


def replay(waived: Sequence[Reason]) -> None:
    """Look at every refused event again, and count what is right now.

    Raises:
        FeaturesNotReady: if nothing was set up.
        FeatureStoreUnavailable: if the online store cannot be written.
    """
    with _streams() as (activity, records):
        _say_step(activity.replay(waived))
        _say_records(records.replay())
    left = sorted(_num_waiting().items())
    say("left     " + (", ".join(f"{reason} {n}" for reason, n in left) or "none"))


def profile(as_of: str | None) -> None:
    """Write the profile of every active seller, into history and online.

    Args:
        as_of: day at whose start they are looked at; None means now.

    Raises:
        FeaturesNotReady: if nothing was set up.
        FeatureStoreUnavailable: if the online store cannot be written.
        PermanentError: if the day is none, or has not come yet.
    """
    place, now = _place(), SystemClock().now()
    at = now if as_of is None else cut_off_of(as_of)
    if at > now:
        raise PermanentError(f"{as_of} has not come yet; --as-of takes a day of the past")
    done = write_profiles(open_store(place), place, at, now)
    say(f"profiles {done.sellers} sellers as of {at:%Y-%m-%d %H:%M} UTC")
    if not done.is_online:
        say("online   unchanged: it holds this instant, or a later one")
    if done.through is None or at - done.through > _BEHIND:
        come = f"{done.through:%Y-%m-%d %H:%M} UTC" if done.through else "nowhere yet"
        say(f"[yellow]behind[/]   the stream has come to {come}: tidegate features stream --once")


def prune_views(*, is_dry_run: bool) -> None:
    """Take rows that are past their days out of history and online store.

    Raises:
        FeaturesNotReady: if nothing was set up.
        FeatureStoreUnavailable: if the online store cannot be reached.
        StoreBusy: if another process writes the store, unless `is_dry_run`.
    """
    place, now = _place(), SystemClock().now()
    with nullcontext() if is_dry_run else writing(place):
        open_store(place)
        done = prune(place, now, is_dry_run=is_dry_run)
    table = Table("view", "kept days", "rows", "past", "online past", "files", "then")
    for one in done:
        numbers = (one.rows, one.dropped, one.online, one.files, one.files_after)
        table.add_row(one.view, f"{RETENTION[one.view].days}", *(f"{n:,}" for n in numbers))
    console.print(table)
    say("nothing was changed" if is_dry_run else "rows past their days are gone")


def _num_waiting() -> Counter[Reason]:
    return Counter(letters_of(_place()).counts()) + Counter(letters_of_records(_place()).counts())


def _place() -> Place:
    return Place.of(settings())


@contextmanager
def _streams() -> Iterator[tuple[FeatureStream, RecordStream]]:
    """Be the one writer, and give the streams of activity and of records."""
    place, clock = _place(), SystemClock()
    with writing(place):
        ledger = SqliteLedger(Home(settings().home).ledger)
        yield open_stream(place, ledger, clock), open_records(place, ledger, clock)


def _say_records(done: RecordStep) -> None:
    say(f"records  {done.decisions} decisions, {done.truths} truths; refused {done.refused}")


def _say_step(done: Step) -> None:
    say(f"counted  {done.events} events, {done.versions} versions of rows; refused {done.refused}")
    if done.known:
        say(f"known    {done.known} events were counted before")
    if done.erased:
        say(f"erased   {done.erased} sellers were taken out")
