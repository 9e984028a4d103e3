"""Drawn events of many sellers, some late and some twice, and uploads to ask about."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from ledger.events import Event, from_ground_truth, from_report, from_submission
from moderation.listing import GroundTruth, Listing, Report, Submission, TruthSource

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
_DAYS: Final = 60
_CATEGORIES: Final = ("toys", "phones", "fashion", "garden", "tools", "books")
_CURRENCIES: Final = ("EUR", "USD")


def drawn_upload(rng: Random, name: str, at: datetime, num_sellers: int) -> Submission:
    """Return an upload of a drawn seller; a few sellers are busy, most are not."""
    seller = int(num_sellers * rng.random() ** 2)
    listing = Listing(
        listing_id=f"l{seller}-{rng.randrange(5)}",
        seller_id=f"s{seller}",
        device_fingerprint=f"d{seller // 3}-{rng.randrange(2)}",
        address_fingerprint=f"a{seller // 4}",
        category=rng.choice(_CATEGORIES),
        price=round(rng.lognormvariate(3, 1), 2) + 1,
        currency=rng.choice(_CURRENCIES),
    )
    return Submission(submission_id=name, listing=listing, submitted_at=at)


def arriving(seed: int, num: int, num_sellers: int) -> Iterator[Event]:
    """Yield about `num` events in the order of arrival; one in eleven comes again."""
    rng = Random(seed)
    events: list[Event] = []
    for number in range(-(-num * 10 // 22)):
        at = START + timedelta(days=rng.uniform(0, _DAYS))
        upload = drawn_upload(rng, f"u{number}", at, num_sellers)
        events.append(from_submission(upload, recorded_at=at))
        later = at + timedelta(days=rng.expovariate(1 / 4))
        seller = upload.listing.seller_id
        if rng.random() < 0.6:
            truth = GroundTruth(
                submission_id=upload.submission_id,
                policy=rng.choice(("p", "q")),
                violates=rng.random() < 0.3,
                source=rng.choice((TruthSource.REVIEW, TruthSource.APPEAL)),
                reviewed_at=later,
                known_at=later,
            )
            events.append(from_ground_truth(truth, recorded_at=later, seller_id=seller))
        else:
            report = Report(
                report_id=f"r{number}", submission_id=upload.submission_id, reported_at=later
            )
            events.append(from_report(report, recorded_at=later, seller_id=seller))
    lag = (0.0, 0.001, 1, 30, 3_600, 40_000)
    late = [
        replace(one, recorded_at=one.occurred_at + timedelta(seconds=rng.choice(lag)))
        for one in events
    ]
    late += [
        replace(one, recorded_at=one.recorded_at + timedelta(hours=1))
        for one in rng.sample(late, len(late) // 10)
    ]
    yield from sorted(late, key=lambda one: one.recorded_at)
