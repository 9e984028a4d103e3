from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from components.home import Home
from ledger.events import EventKind, to_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from marketplace.config import WorldConfig
from moderation.errors import PermanentError
from moderation.listing import Listing, Submission
from moderation.policy import load_policies
from tidegate.world import Keywords, build_world, ending_by, unseen_listings

POLICIES = load_policies(Path("policies/marketplace.yaml"))
WORLD = replace(WorldConfig.tiny(), days=6)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("world"))
    built = build_world(WORLD, home, POLICIES, num_unseen_days=2)
    assert built.num_submissions > 0
    assert built.num_unseen > 0
    return home


def test_world_keeps_its_last_days_out_of_the_ledger(home: Home) -> None:
    first_unseen = WORLD.start + timedelta(days=WORLD.days - 2)
    events = list(SqliteLedger(home.ledger).read())
    assert max(stored.event.occurred_at.date() for stored in events) < first_unseen
    known = {
        to_submission(stored.event).listing.listing_id
        for stored in events
        if stored.event.kind is EventKind.SUBMISSION
    }
    unseen = unseen_listings(home)
    assert unseen
    # A listing may be tried again later; the upload itself is new.
    assert any(listed.listing["listing_id"] not in known for listed in unseen)


def test_world_stores_every_image(home: Home) -> None:
    store = ContentStore(home.content)
    for stored in SqliteLedger(home.ledger).read((EventKind.SUBMISSION,)):
        assert all(store.has(d) for d in to_submission(stored.event).image_digests)
    assert any(listed.images for listed in unseen_listings(home))


def test_world_is_built_once(home: Home) -> None:
    before = home.ledger.stat().st_mtime_ns
    again = build_world(WORLD, home, POLICIES, num_unseen_days=2)
    assert again.was_there
    assert again.logical_date == (WORLD.start + timedelta(days=WORLD.days - 2)).isoformat()
    assert home.ledger.stat().st_mtime_ns == before


def test_world_stays_where_it_began_when_moved(home: Home) -> None:
    moved = ending_by(WORLD, date(2030, 1, 1))
    assert build_world(moved, home, POLICIES, num_unseen_days=2).was_there


def test_world_goes_on_where_it_was_interrupted(tmp_path: Path, home: Home) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise Interrupted

    other = Home(tmp_path)
    with pytest.raises(Interrupted):
        build_world(WORLD, other, POLICIES, num_unseen_days=2, on_day=interrupt)
    moved = ending_by(WORLD, date(2030, 1, 1))
    built = build_world(moved, other, POLICIES, num_unseen_days=2)
    assert not built.was_there
    whole = [stored.event.event_id for stored in SqliteLedger(home.ledger).read()]
    assert [stored.event.event_id for stored in SqliteLedger(other.ledger).read()] == whole


def test_world_refuses_a_home_with_another_one(home: Home) -> None:
    with pytest.raises(PermanentError, match="holds another world"):
        build_world(replace(WORLD, seed=8), home, POLICIES, num_unseen_days=2)


@pytest.mark.parametrize("today", [date(2026, 11, 21), date(2026, 11, 22), date(2025, 2, 1)])
def test_ending_by_moves_a_world_by_whole_weeks(today: date) -> None:
    config = WorldConfig.demo()
    moved = ending_by(config, today)
    last = moved.start + timedelta(days=config.days - 1)
    assert timedelta() <= today - last < timedelta(days=7)
    assert moved.start.weekday() == config.start.weekday()


def test_keywords_match_whole_words_of_any_policy() -> None:
    keywords = Keywords(POLICIES)

    def match(title: str) -> bool:
        listing = Listing(listing_id="l1", title=title)
        return keywords.match(
            Submission(submission_id="u1", listing=listing, submitted_at="2026-01-01T00:00:00Z")
        )

    assert match("Real GLOCK, never fired")
    assert match("mirror quality bag")
    assert not match("glocken aus Messing")
    assert not match("")
