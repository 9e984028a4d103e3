"""A home with reviewed listings, and two real bundles with the table that one of them was trained on."""

import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from components.contract import read_contract
from components.home import Home
from components.prove.proof import ProveInputs
from components.snapshot.step import hashed_rows
from ledger.events import from_decision, from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.bundle import Bundle, Description, Inputs, build
from moderation.decision import SIGNALS, Attempt, PolicyScore, Versions
from moderation.golden import build_golden
from moderation.listing import GroundTruth, TruthSource
from moderation.snapshot import Snapshot, SnapshotRow
from tests.decided import a_decision
from tests.tiny_bundle import SEED, TinyRun, mean_ensemble
from tests.toy import POLICIES, ToyWorld, toy_world

POLICIES_TEXT = Path("policies/marketplace.yaml").read_text(encoding="utf-8")
CONTRACT_TEXT = Path("policies/release.yaml").read_text(encoding="utf-8")
SUITE = {
    "violations_per_policy": 100,
    "innocents": 150,
    "white_box_items": 18,
    "white_box_steps": 20,
}
SMALL_SUITE = {
    "violations_per_policy": 5,
    "innocents": 6,
    "white_box_items": 2,
    "white_box_steps": 2,
}


def small_contract() -> str:
    """Return the shipped contract with so few attacked listings that a test can pay for them."""
    text = CONTRACT_TEXT
    for name, number in SUITE.items():
        said = f"  {name}: {number}"
        assert said in text, f"the contract no longer says {said.strip()}"
        text = text.replace(said, f"  {name}: {SMALL_SUITE[name]}")
    return text


def renamed(world: ToyWorld, prefix: str, later: timedelta) -> ToyWorld:
    """Return the same listings as other uploads of other sellers at a later time."""
    rows = []
    for row in world.rows:
        submission = row.submission
        listing = submission.listing.model_copy(
            update={
                "listing_id": f"{prefix}{submission.listing.listing_id}",
                "seller_id": f"{prefix}{submission.listing.seller_id}",
                "language": "en",
                "region": "DE",
                "category": "home",
            }
        )
        moved = submission.model_copy(
            update={
                "submission_id": f"{prefix}{submission.submission_id}",
                "listing": listing,
                "submitted_at": submission.submitted_at + later,
            }
        )
        rows.append(replace(row, submission=moved))
    return ToyWorld(rows, world.blobs)


def record(home: Home, world: ToyWorld, *, known_after: timedelta) -> None:
    """Append the uploads of a world and the truth about each of them to the ledger and the content store."""
    store, events = ContentStore(home.content), []
    for data in world.blobs.values():
        store.put(data)
    for row in world.rows:
        submission = row.submission
        events.append(from_submission(submission, recorded_at=submission.submitted_at))
        at = submission.submitted_at + known_after
        events += [
            from_ground_truth(_truth(row, policy, violates, at), recorded_at=at)
            for policy, violates in row.truth.items()
        ]
    SqliteLedger(home.ledger).append(events)


def _truth(row: SnapshotRow, policy: str, violates: bool, at: datetime) -> GroundTruth:
    return GroundTruth(
        submission_id=row.submission.submission_id,
        policy=policy,
        violates=violates,
        source=TruthSource.REVIEW,
        reviewed_at=at,
        known_at=at,
        adjudicated=True,
    )


@dataclass(frozen=True)
class ProveWorld:
    """What a proof starts from."""

    home: Home
    table: Snapshot
    candidate: Bundle
    champion: Bundle
    champion_table: Snapshot

    def inputs(self, *, champion: bool = True) -> ProveInputs:
        """Return the folders of a proof, with or without the champion."""
        return ProveInputs(
            str(self.candidate.folder),
            str(self.champion.folder) if champion else "",
            str(self.table.folder),
            str(self.home.folder),
        )


def prove_world(folder: Path, tiny: TinyRun) -> ProveWorld:
    """Return a home whose ledger holds the candidate's training rows, and the tiny bundle beside a worse one.

    The champion does not listen to n-grams.
    """
    home = Home(folder / "home")
    record(home, toy_world(240, SEED), known_after=timedelta(hours=2))
    table = Path(shutil.copytree(tiny.parts["heads"].parent / "snapshot", folder / "table"))
    theirs = renamed(toy_world(60, 41), "old-", timedelta(0)).snapshot(folder / "champion-table")
    champion = other_bundle(folder / "champion", tiny, theirs.digest)
    return ProveWorld(home, Snapshot.open(table), tiny.bundle, champion, theirs)


def other_bundle(folder: Path, tiny: TinyRun, snapshot: str) -> Bundle:
    """Return a bundle of the same towers that does not listen to n-grams, as if trained on another snapshot."""
    ensemble = mean_ensemble()
    deaf = {
        bits: tuple(replace(fit, weights=_without_ngram(fit.weights)) for fit in fits)
        for bits, fits in ensemble.fits.items()
    }
    path = folder.with_suffix(".json")
    replace(ensemble, fits=deaf).save(path)
    inputs = Inputs(snapshot=snapshot, code="toy", config="other", seed=SEED + 1)
    description = Description(policies=tiny.bundle.manifest.policies, profile="tiny", inputs=inputs)
    return build(folder, tiny.parts | {"ensemble": path}, description)


def _without_ngram(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(0.0 if name == "ngram" else w for name, w in zip(SIGNALS, weights, strict=True))


LATER = timedelta(days=420)
"""How much later what is renamed is uploaded: after the cut-off of the tiny bundle's snapshot."""


def with_golden(world: ProveWorld, num_rows: int = 96) -> ToyWorld:
    """Build a golden set of other sellers' listings in the world's home; return the listings."""
    listings = renamed(toy_world(num_rows, seed=77), "gold-", LATER)
    store = ContentStore(world.home.content)
    for data in listings.blobs.values():
        store.put(data)
    rules = read_contract(CONTRACT_TEXT).golden.model_copy(update={"share_of_groups": 0.9})
    as_of = listings.rows[-1].submission.submitted_at + timedelta(days=10)
    build_golden(
        world.home.golden,
        lambda: iter(listings.rows),
        rules,
        policy_ids=world.table.policy_ids,
        as_of=as_of,
        hashed=lambda rows: hashed_rows(rows, store.get),
    )
    return listings


def decide(
    home: Home,
    world: ToyWorld,
    probability: float,
    *,
    release: str = "e" * 64,
    seller_id: str | None = None,
) -> None:
    """Record for every listing of a world the decision of a release that gives one probability to all."""
    store, events = ContentStore(home.content), []
    for row in world.rows:
        submission = row.submission
        digests = {"listing": store.put(submission.listing.model_dump_json().encode())}
        digests |= {f"image.{k}": digest for k, digest in enumerate(submission.image_digests)}
        attempt = Attempt(
            role="answer",
            release=release,
            status="ok",
            latency_ms=1.0,
            scores=tuple(
                PolicyScore(policy=policy, probability=probability, worst_image=None, signals=())
                for policy in POLICIES
            ),
            thresholds={policy: {"review": 0.4} for policy in POLICIES},
            tier="allow",
        )
        decision = a_decision(
            submission.submission_id,
            submission.submitted_at,
            attempts=(attempt,),
            input_digests=digests,
            versions=Versions(bundle=release, policy="p"),
        )
        at = decision.decided_at
        events.append(from_decision(decision, recorded_at=at, seller_id=seller_id))
    SqliteLedger(home.ledger).append(events)
