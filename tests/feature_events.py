"""Events of a few busy sellers, drawn: uploads, truths that change, reversals, reports, appeals; some late."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from ledger.events import (
    Event,
    from_appeal,
    from_ground_truth,
    from_report,
    from_reversal,
    from_submission,
)
from moderation.listing import (
    Appeal,
    GroundTruth,
    Listing,
    Report,
    Reversal,
    ReversalReason,
    Submission,
    TruthSource,
)

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
_SELLERS: Final = ("s1", "s2", "s3", "s4")
_CATEGORIES: Final = ("toys", "phones")


def upload(name: str, at: datetime, **fields: Any) -> Submission:
    """Return one upload."""
    listing = {"listing_id": f"listing-of-{name}", "seller_id": "s1"} | fields
    return Submission(submission_id=name, listing=Listing(**listing), submitted_at=at)


def drawn_upload(rng: Random, name: str, at: datetime) -> Submission:
    """Return an upload of a drawn seller, with what its price and its devices are compared with."""
    return upload(
        name,
        at,
        listing_id=f"l{rng.randrange(30)}",
        seller_id=rng.choice((*_SELLERS, None)),
        device_fingerprint=rng.choice((None, "d1", "d2", "d3")),
        address_fingerprint=rng.choice((None, "a1", "a2")),
        category=rng.choice(_CATEGORIES),
        price=rng.choice((None, 4.0, 20.0, 90.0)),
        currency="EUR",
    )


def drawn_events(rng: Random, num: int, *, days: float = 120) -> list[Event]:
    """Return about `num` events in the order of time; whatever follows an upload may come long after it."""
    events: list[Event] = []
    for number in range(-(-num // 2)):
        at = START + timedelta(days=rng.uniform(0, days))
        submission = drawn_upload(rng, f"u{number}", at)
        seller = submission.listing.seller_id
        events.append(from_submission(submission, recorded_at=at))
        later = at + timedelta(days=rng.expovariate(1 / 10))
        of = submission.submission_id
        match rng.randrange(4):
            case 0 | 1:
                events += _judged(rng, of, later, seller)
            case 2:
                report = Report(report_id=f"r{number}", submission_id=of, reported_at=later)
                events.append(from_report(report, recorded_at=later, seller_id=seller))
            case _:
                appeal = Appeal(
                    appeal_id=f"a{number}",
                    submission_id=of,
                    opened_at=at,
                    resolved_at=later,
                    overturned=rng.random() < 0.5,
                )
                events.append(from_appeal(appeal, recorded_at=later, seller_id=seller))
    return sorted(events, key=lambda event: (event.occurred_at, event.event_id))


def _judged(rng: Random, of: str, at: datetime, seller: str | None) -> list[Event]:
    """Return one to three truths about an upload, and often a reversal among them that may travel long."""
    events = []
    for number in range(rng.choice((1, 1, 2, 3))):
        reviewed = at + timedelta(days=rng.uniform(0, 30) * (number > 0))
        known = reviewed + timedelta(days=rng.choice((0, 0, rng.uniform(0, 5))))
        truth = GroundTruth(
            submission_id=of,
            policy=rng.choice(("p", "q")),
            violates=rng.random() < 0.6,
            source=rng.choice((TruthSource.REVIEW, TruthSource.APPEAL)),
            reviewed_at=reviewed,
            known_at=known,
        )
        events.append(from_ground_truth(truth, recorded_at=known, seller_id=seller))
    for number in range(rng.choice((0, 0, 1, 2))):
        reversed_at = at + timedelta(days=rng.uniform(-2, 40))
        known = reversed_at + timedelta(days=rng.choice((0, rng.uniform(0, 5))))
        reversal = Reversal(
            reversal_id=f"v{of}-{number}",
            submission_id=of,
            policy=rng.choice((None, "p", "q")),
            reason=rng.choice(tuple(ReversalReason)),
            reversed_at=reversed_at,
            known_at=known,
        )
        events.append(from_reversal(reversal, recorded_at=known, seller_id=seller))
    return events
