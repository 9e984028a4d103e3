"""Yesterday's traffic: what the champion decided about the uploads of the last day, as a gateway records it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

import numpy as np

from components.behaviour import known_behaviour
from components.home import Home
from components.ingest.rows import read_rows
from featurestore.online import BehaviourRead
from ledger.events import Event, from_decision
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.decision import SIGNALS, Attempt, Decision, Versions, conclude
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission
from moderation.policy import PolicyFile
from moderation.scoring import Scorer, ScoringItem
from moderation.snapshot import SnapshotRow
from serving.client import Answer
from serving.gateway.behaviour import Behaviour
from serving.gateway.record import answered
from serving.gateway.requests import listing_bytes
from serving.release import Release
from tidegate.doctor.world import END, REPLAYED_FROM

_LATE_TRUTH: Final = timedelta(days=3)
_LATENCY_MS: Final = 40.0
_NO_CAPS: Final[Mapping[str, str]] = MappingProxyType({})


def record_traffic(
    home: Home, bundle: Bundle, policies: PolicyFile, caps: Mapping[str, str] = _NO_CAPS
) -> int:
    """Append the bundle's decision about every upload of the last day; return how many there were.

    Args:
        home: whose ledger has the uploads.
        bundle: decides.
        policies: whose tiers and reason codes apply.
        caps: policy -> weakest tier that was closed on that day.
    """
    scorer, ledger = Scorer(bundle), SqliteLedger(home.ledger)

    def is_replayed(submission: Submission, has_truth: bool) -> bool:
        return has_truth and submission.submitted_at >= REPLAYED_FROM

    behaviour_at = known_behaviour(home, ledger)
    rows = list(read_rows(ledger, END + _LATE_TRUTH, policies.ids, behaviour_at, is_replayed))
    store = ContentStore(home.content)
    return ledger.append(decisions_about(rows, scorer, policies, store, caps=caps))


def decisions_about(
    rows: Sequence[SnapshotRow],
    scorer: Scorer,
    policies: PolicyFile,
    store: ContentStore,
    *,
    decided_at: datetime | None = None,
    caps: Mapping[str, str] = _NO_CAPS,
) -> Iterator[Event]:
    """Yield a decision about each row, as a gateway records it.

    Args:
        rows: uploads with the behaviour that was known of them.
        scorer: the release that answers.
        policies: whose tiers and reason codes apply.
        store: holds the images, takes the listings.
        decided_at: time of all of them; None: each right after its upload.
        caps: policy -> weakest tier that stays closed.
    """
    release = Release(
        bundle=scorer.digest,
        policies=scorer.policies,
        members=SIGNALS,
        features=FEATURE_NAMES,
        thresholds={policy: dict(tiers) for policy, tiers in scorer.thresholds.items()},
        versions=scorer.bundle.versions,
    )
    scores = scorer.score([_item(row, store) for row in rows])
    for number, row in enumerate(rows):
        answer = Answer(
            release,
            scores.probability_NP[number],
            scores.signals_NPM[number],
            scores.signal_status_NPM[number],
            scores.worst_image_NP[number],
        )
        seller_id = row.submission.listing.seller_id
        listing = store.put(listing_bytes(row.submission.listing), seller_id)
        at = decided_at or row.submission.submitted_at + timedelta(milliseconds=_LATENCY_MS)
        attempt = answered(answer, policies, caps=caps, now=at, latency_ms=_LATENCY_MS)
        decision = _decision(row, attempt, policies, listing, at)
        yield from_decision(
            decision,
            recorded_at=decision.decided_at,
            seller_id=seller_id,
        )


def _item(row: SnapshotRow, store: ContentStore) -> ScoringItem:
    submission = row.submission
    return ScoringItem(
        submission.listing.title,
        submission.listing.description,
        [store.get(digest) for digest in submission.image_digests],
        row.behaviour_F,
    )


def _decision(
    row: SnapshotRow, attempt: Attempt, policies: PolicyFile, listing: str, decided_at: datetime
) -> Decision:
    submission = row.submission
    behaviour_F = row.behaviour_F
    if behaviour_F is None:
        behaviour_F = np.full(len(FEATURE_NAMES), np.nan, np.float32)
    at = submission.submitted_at
    behaviour = Behaviour.of(BehaviourRead(behaviour_F, at, at, 0.0))
    _, tier, codes = conclude((attempt,), None, policies, policies.on_failure)
    return Decision(
        decision_id=f"d-{submission.submission_id}",
        trace_id=f"t-{submission.submission_id}",
        submission_id=submission.submission_id,
        tier=tier.label,
        reason_codes=codes,
        attempts=(attempt,),
        arm="champion",
        weight=1.0,
        sticky_key=submission.listing.seller_id or submission.submission_id,
        routing_revision=0,
        input_digests={"listing": listing}
        | {f"image.{place}": digest for place, digest in enumerate(submission.image_digests)},
        features=behaviour.feature_values(),
        features_through=behaviour.through,
        versions=Versions(
            bundle=attempt.release, policy=f"{policies.version}@sha256:{policies.digest}"
        ),
        submitted_at=submission.submitted_at,
        decided_at=decided_at,
    )
