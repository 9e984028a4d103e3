"""The simulated marketplace in the ledger: its past as events, and its newest days kept aside as unseen listings."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from components.home import Home
from ledger.events import Event, from_appeal, from_ground_truth, from_report, from_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from marketplace.config import WORLD_VERSION, WorldConfig
from marketplace.outcomes import WorldEvent, event_time
from marketplace.world import World
from moderation.errors import PermanentError
from moderation.listing import GroundTruth, Report, Submission
from moderation.policy import PolicyFile, load_policies
from moderation.settings import settings
from moderation.text import normalise
from tidegate.console import console, say
from tidegate.deciding import Listed

SIZES: Final[dict[str, Callable[..., WorldConfig]]] = {
    "tiny": WorldConfig.tiny,
    "demo": WorldConfig.demo,
    "default": WorldConfig.default,
}
_WEEK: Final = 7


@dataclass(frozen=True)
class Built:
    """A world whose past is in the ledger."""

    logical_date: str
    """The day after the newest one in the ledger: the first that nobody has trained on."""

    num_submissions: int
    num_unseen: int
    was_there: bool


OnDay = Callable[[int, int], None]


def build_world(
    config: WorldConfig,
    home: Home,
    policies: PolicyFile,
    *,
    num_unseen_days: int = 0,
    on_day: OnDay | None = None,
) -> Built:
    """Put the days of a world into the ledger, the last ones aside as unseen listings; done once per home.

    Uploads are judged by the keywords of the policy file, as on the day before there is a model; what follows from
    that (reviews, reports, appeals, what sellers try next) is part of the world.

    Raises:
        PermanentError: if the home holds another world.
    """
    config, there = _resume(config, home, num_unseen_days)
    if there is not None:
        return there
    _mark(config, home, num_unseen_days, None)
    world, keywords = World(config), Keywords(policies)
    ledger, store = SqliteLedger(home.ledger), ContentStore(home.content)
    num_past = len(world.dates) - num_unseen_days
    sellers: dict[str, str | None] = {}
    for number, today in enumerate(world.dates[:num_past]):
        submissions = _keep_day(world, today, store)
        decisions = [(s.submission_id, "review") for s in submissions if keywords.match(s)]
        sellers |= {s.submission_id: s.listing.seller_id for s in submissions}
        ledger.append(_in_order(submissions, list(world.react(today, decisions)), sellers))
        if on_day:
            on_day(number + 1, len(world.dates))
    num_unseen = _keep_unseen(world, world.dates[num_past:], home, store)
    built = Built(
        (config.start + timedelta(days=num_past)).isoformat(), len(sellers), num_unseen, False
    )
    _mark(config, home, num_unseen_days, built)
    return built


class Keywords:
    """What a marketplace has before it has a model: the literal words of its policies."""

    def __init__(self, policies: PolicyFile) -> None:
        words = {word for policy in policies.policies for word in policy.keywords}
        self._pattern = re.compile(
            r"(?<!\w)(?:" + "|".join(re.escape(w.casefold()) for w in sorted(words)) + r")(?!\w)"
        )
        self._is_empty = not words

    def match(self, submission: Submission) -> bool:
        """Return whether the text holds one of the words."""
        text = normalise(f"{submission.listing.title} {submission.listing.description}").normalised
        return not self._is_empty and self._pattern.search(text) is not None


def ending_by(config: WorldConfig, today: date) -> WorldConfig:
    """Return the same world moved by whole weeks so that its last day is this week, and not after today.

    Sellers' histories then reach up to now, as in life; weekdays stay, so the world stays the same.
    """
    last = config.start + timedelta(days=config.days - 1)
    weeks = (today - last).days // _WEEK
    return replace(config, start=config.start + timedelta(days=weeks * _WEEK))


def unseen_listings(home: Home) -> list[Listed]:
    """Return the listings that were kept aside, with what the world knows of them."""
    store = ContentStore(home.content)
    return [_to_listed(record, store) for record in _read_lines(home.unseen)]


def _keep_day(world: World, today: date, store: ContentStore) -> list[Submission]:
    uploads = list(world.day(today))
    sellers = {submission.listing.seller_id for submission, _ in uploads}
    store.make_keys([seller_id for seller_id in sellers if seller_id is not None])
    for submission, images in uploads:
        for image in images:
            store.put(image, submission.listing.seller_id)
    return [submission for submission, _ in uploads]


def _in_order(
    submissions: Sequence[Submission],
    events: Sequence[WorldEvent],
    sellers: Mapping[str, str | None],
) -> list[Event]:
    """Return everything of one day as events in the order in which it became known."""
    timed = [(s.submitted_at, from_submission(s, recorded_at=s.submitted_at)) for s in submissions]
    timed += [
        (event_time(event), _to_event(event, sellers[event.submission_id])) for event in events
    ]
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]


def _to_event(event: WorldEvent, seller_id: str | None) -> Event:
    if isinstance(event, GroundTruth):
        return from_ground_truth(event, recorded_at=event.known_at, seller_id=seller_id)
    if isinstance(event, Report):
        return from_report(event, recorded_at=event.reported_at, seller_id=seller_id)
    return from_appeal(event, recorded_at=event_time(event), seller_id=seller_id)


def _keep_unseen(world: World, days: Sequence[date], home: Home, store: ContentStore) -> int:
    lines = []
    for today in days:
        for submission in _keep_day(world, today, store):
            oracle = world.oracle(submission.submission_id)
            lines.append(
                json.dumps(
                    {
                        "listing": submission.listing.model_dump(mode="json"),
                        "images": list(submission.image_digests),
                        "violated": oracle.violated,
                        "policies": list(oracle.probability),
                        "attributes": submission.attributes,
                    }
                )
            )
        for _ in world.react(today, ()):
            pass
    home.unseen.parent.mkdir(parents=True, exist_ok=True)
    home.unseen.write_text("\n".join(lines), encoding="utf-8")
    return len(lines)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _to_listed(record: dict[str, Any], store: ContentStore) -> Listed:
    truth = {policy: policy == record["violated"] for policy in record["policies"]}
    return Listed(record["listing"], [store.get(digest) for digest in record["images"]], truth)


def _fingerprint(config: WorldConfig, num_unseen_days: int) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return facts | {"version": WORLD_VERSION, "unseen_days": num_unseen_days}


def _mark(config: WorldConfig, home: Home, num_unseen_days: int, built: Built | None) -> None:
    world = _fingerprint(config, num_unseen_days)
    marked = {"world": world, "built": asdict(built) if built else None}
    home.folder.mkdir(parents=True, exist_ok=True)
    home.world.write_text(json.dumps(marked, indent=1), encoding="utf-8")


def _resume(
    config: WorldConfig, home: Home, num_unseen_days: int
) -> tuple[WorldConfig, Built | None]:
    """Return the world as it was begun in this home, and what came of it if it was finished."""
    if not home.world.is_file():
        return config, None
    marked = json.loads(home.world.read_text(encoding="utf-8"))
    wanted = _fingerprint(config, num_unseen_days)
    # A world that was moved to end in another week is the same one.
    differs = sorted(k for k in wanted if k != "start" and marked["world"].get(k) != wanted[k])
    if differs:
        raise PermanentError(
            f"{home.folder} holds another world ({', '.join(differs)} differ): "
            "set TIDEGATE__HOME to another folder, or remove this one"
        )
    begun = replace(config, start=date.fromisoformat(marked["world"]["start"]))
    built = marked["built"]
    return begun, replace(Built(**built), was_there=True) if built else None


def simulate(*, size: str, days: int | None, seed: int) -> None:
    """Build a world in the home folder and say what is in it."""
    if size not in SIZES:
        raise PermanentError(f"no size {size!r}; known are {', '.join(SIZES)}")
    config = SIZES[size](seed=seed)
    if days is not None:
        config = replace(config, days=days)
    home = Home(settings().home)
    built = build_shown(config, home, load_policies(settings().policy_file))
    say(
        f"{built.num_submissions:,} submissions are in {home.ledger}; "
        f"next: tidegate train --date {built.logical_date}"
    )


def build_shown(
    config: WorldConfig, home: Home, policies: PolicyFile, *, num_unseen_days: int = 0
) -> Built:
    """Build a world with its days shown as they pass."""
    columns = (
        TextColumn("  simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("days"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("days", total=config.days)
        return build_world(
            config,
            home,
            policies,
            num_unseen_days=num_unseen_days,
            on_day=lambda done, total: progress.update(task, completed=done, total=total),
        )


def audit(*, seed: int) -> int:
    """Check the world itself; return the exit code."""
    from tidegate.audit import run_audit

    return int(run_audit(seed=seed))
