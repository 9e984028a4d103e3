"""Recorded traffic as evidence: what was decided, decided again from what was stored, and what could not be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.home import Home
from components.prove.replayed import (
    BY_OTHERS,
    BY_STAGE_1,
    Recorded,
    Window,
    recorded_rows,
    replayed_set,
)
from ledger.events import from_decision
from ledger.ledger import SqliteLedger
from ledger.recorded import behaviour_of
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.decision import (
    STATUS_CODES,
    Attempt,
    Decision,
    Earlier,
    FeatureValue,
    PolicyScore,
    SignalStatus,
    Versions,
    effective_thresholds,
)
from moderation.embedding_cache import EmbeddingCache
from moderation.errors import BundleRejected, InvalidSnapshot, PermanentError
from moderation.features import FEATURE_NAMES
from moderation.gates.evidence import ScoredSet
from moderation.policy import Override, load_policies
from moderation.release import load_release
from moderation.scoring import Scorer, ScoringItem
from moderation.snapshot_rows import SnapshotRow
from moderation.stage_1 import Stage1, StageSignal
from tests.decided import a_decision
from tests.toy import POLICIES, START, ToyWorld, toy_world

ROOT = Path(__file__).parents[3]
FILE = load_policies(ROOT / "policies" / "marketplace.yaml")
RULES = load_release(ROOT / "policies" / "release.yaml").slices
DAILY = Window(days=1, most=20_000)
LIMITS = {policy: {"review": 0.4, "block": 0.8} for policy in POLICIES}


@dataclass
class Traffic:
    """A home whose ledger is filled with decisions by a test."""

    home: Home
    world: ToyWorld
    scorer: Scorer

    @property
    def ledger(self) -> SqliteLedger:
        return SqliteLedger(self.home.ledger)

    @property
    def store(self) -> ContentStore:
        return ContentStore(self.home.content)

    def decide(
        self, rows: slice, at: datetime, attempt: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Record decisions about toy listings, a minute apart, as the scorer answers them but for `fields`."""
        events = []
        for number, row in enumerate(self.world.rows[rows]):
            decision = self._decision(row, at + timedelta(minutes=number), attempt)
            decision = decision.model_copy(update=fields)
            events.append(from_decision(decision, recorded_at=decision.decided_at))
        self.ledger.append(events)

    def recorded(self, window: Window | None = None, seed: int = 1) -> Recorded:
        return recorded_rows(self.ledger, self.store, POLICIES, window or DAILY, seed)

    def replayed(self, recorded: Recorded, candidate: Scorer | None = None) -> ScoredSet:
        cache = EmbeddingCache(self.home.embeddings)
        return replayed_set(recorded, candidate or self.scorer, cache, FILE, RULES)

    def _decision(
        self, row: SnapshotRow, at: datetime, attempt: Mapping[str, Any] | None
    ) -> Decision:
        submission, store = row.submission, self.store
        digests = {"listing": store.put(submission.listing.model_dump_json().encode())}
        for place, data in enumerate(self.world.images(row)):
            digests[f"image.{place}"] = store.put(data)
        values_F = row.behaviour_F
        if values_F is None:
            values_F = np.full(len(FEATURE_NAMES), np.nan, np.float32)
        features = tuple(
            FeatureValue(
                name=name,
                value=float(value) if np.isfinite(value) else None,
                status=SignalStatus.OK if np.isfinite(value) else SignalStatus.MISSING,
                event_time=None,
            )
            for name, value in zip(FEATURE_NAMES, values_F, strict=True)
        )
        fields = self._answer(row) | dict(attempt or {})
        return a_decision(
            submission.submission_id,
            submission.submitted_at,
            attempts=(Attempt.model_validate(fields),),
            input_digests=digests,
            features=features,
            versions=Versions(bundle=self.scorer.digest, policy="p"),
            decided_at=at,
        )

    def _answer(self, row: SnapshotRow) -> dict[str, Any]:
        listing = row.submission.listing
        item = ScoringItem(
            listing.title, listing.description, self.world.images(row), row.behaviour_F
        )
        probability_P = self.scorer.score([item]).probability_NP[0].tolist()
        scores = tuple(
            PolicyScore(policy=policy, probability=probability, worst_image=None, signals=())
            for policy, probability in zip(POLICIES, probability_P, strict=True)
        )
        return {
            "role": "answer",
            "release": self.scorer.digest,
            "status": "ok",
            "latency_ms": 1.0,
            "scores": scores,
            "thresholds": LIMITS,
            "tier": "allow",
        }


@pytest.fixture
def traffic(tmp_path: Path, tiny_bundle: Bundle) -> Traffic:
    return Traffic(Home(tmp_path / "home"), toy_world(60, seed=4), Scorer(tiny_bundle))


DAY = START + timedelta(days=30)


def test_replay_gives_what_was_recorded_by_the_same_bundle(traffic: Traffic) -> None:
    traffic.decide(slice(0, 24), DAY)
    found = traffic.replayed(traffic.recorded())
    assert found.champion is not None
    assert (found.name, found.num_rows, found.policies) == ("replay", 24, POLICIES)
    apart = np.abs(found.candidate.probability_NP - found.champion.probability_NP).max()
    assert apart <= 1e-5
    assert np.abs(found.candidate.log_odds_NP - found.champion.log_odds_NP).max() <= 1e-3
    assert found.champion.bundle == found.candidate.bundle == traffic.scorer.digest
    assert found.champion.thresholds == LIMITS
    assert (found.truth_NP == -1).all()
    assert not found.adjudicated_NP.any()
    assert found.weight.tolist() == [1.0] * 24
    assert {"category", "region", "language", "seller_age"} <= set(found.slices)
    assert set(found.slices["seller_age"]) > {""}
    images = [len(row.submission.image_digests) for row in traffic.world.rows[:24]]
    assert found.num_images.tolist() == images
    sellers = [row.submission.listing.seller_id for row in traffic.world.rows[:24]]
    assert found.seller_id.tolist() == sellers
    assert len(set(found.group)) == len(set(sellers))


def test_replay_reads_the_newest_day_alone(traffic: Traffic) -> None:
    traffic.decide(slice(20, 30), DAY)  # the ledger's order is not that of time
    traffic.decide(slice(0, 10), DAY - timedelta(days=2))
    traffic.decide(slice(10, 20), DAY - timedelta(hours=20))
    assert traffic.recorded().rows.words("submission_id").tolist() == [
        *(f"u{number}" for number in range(20, 30)),
        *(f"u{number}" for number in range(10, 20)),
    ]
    assert len(traffic.recorded(replace(DAILY, days=5)).rows.records) == 30
    earlier = traffic.recorded(replace(DAILY, until=DAY - timedelta(days=1)))
    assert {*earlier.rows.words("submission_id")} == {f"u{number}" for number in range(10)}
    assert earlier.until == DAY - timedelta(days=1)


def test_replay_ends_before_the_instant_it_is_given(traffic: Traffic) -> None:
    traffic.decide(slice(0, 3), DAY)
    until = DAY + timedelta(minutes=2)
    assert len(traffic.recorded(replace(DAILY, until=until)).rows.records) == 2


def test_replay_is_a_seeded_sample_when_there_is_too_much(traffic: Traffic) -> None:
    traffic.decide(slice(0, 24), DAY)
    window = replace(DAILY, most=8)
    first, second, other = (traffic.recorded(window, seed) for seed in (1, 1, 2))
    words = [one.rows.words("submission_id").tolist() for one in (first, second, other)]
    assert words[0] == words[1] != words[2]
    assert len(words[0]) == 8
    assert first.rows.column("weight", np.float64).tolist() == [3.0] * 8
    assert "8 of 24" in first.facts["replayed decisions"]


def test_replay_counts_what_it_leaves_out(traffic: Traffic) -> None:
    traffic.decide(slice(0, 20), DAY)
    failed: dict[str, Any] = {"status": "timeout", "scores": (), "thresholds": {}, "release": None}
    traffic.decide(slice(20, 24), DAY, attempt=failed)
    traffic.decide(slice(24, 27), DAY, attempt={"release": "b" * 64})
    traffic.decide(slice(27, 29), DAY, attempt={"thresholds": {}})
    blob = next(d for row in traffic.world.rows[:20] for d in row.submission.image_digests)
    (traffic.home.content / blob[:2] / blob[2:4] / blob).unlink()
    listing = traffic.world.rows[0].submission.listing.model_dump_json().encode()
    gone = traffic.store.put(listing)
    (traffic.home.content / gone[:2] / gone[2:4] / gone).unlink()
    recorded = traffic.recorded()
    assert len(recorded.rows.records) == 18
    assert recorded.facts["not replayed"] == (
        f"5 {BY_OTHERS}, 4 decided by the failure policy, 2 inputs erased"
    )


def test_replay_is_missing_when_nothing_was_decided(traffic: Traffic) -> None:
    with pytest.raises(InvalidSnapshot, match=r"no decision was recorded; let the gateway"):
        traffic.recorded()
    traffic.decide(slice(0, 3), DAY)
    with pytest.raises(InvalidSnapshot, match=r"in the 1 day before 2026-04-30 .*`tidegate serve`"):
        traffic.recorded(replace(DAILY, until=DAY + timedelta(days=30)))


def test_replay_is_missing_when_no_model_ever_answered(traffic: Traffic) -> None:
    failed: dict[str, Any] = {"status": "error", "scores": (), "thresholds": {}, "release": None}
    traffic.decide(slice(0, 3), DAY, attempt=failed)
    with pytest.raises(InvalidSnapshot, match="of 3 decisions .*3 decided by the failure policy"):
        traffic.recorded()


def test_replay_refuses_when_a_stored_listing_is_damaged(traffic: Traffic) -> None:
    traffic.decide(slice(0, 1), DAY)
    listing = traffic.world.rows[0].submission.listing.model_dump_json().encode()
    digest = traffic.store.put(listing)
    (traffic.home.content / digest[:2] / digest[2:4] / digest).write_bytes(b"{}")
    with pytest.raises(PermanentError, match="another digest"):
        traffic.recorded()


def test_policy_without_a_record_let_everything_pass(traffic: Traffic) -> None:
    one = {
        "scores": (PolicyScore(policy="weapons", probability=0.9, worst_image=None, signals=()),)
    }
    traffic.decide(slice(0, 6), DAY, attempt=one)
    found = traffic.replayed(traffic.recorded())
    assert found.champion is not None
    assert found.champion.probability_NP[:, 0].tolist() == [0.9] * 6
    assert not found.champion.probability_NP[:, 1:].any()
    assert (found.champion.log_odds_NP[:, 1:] == -40).all()


def test_candidate_is_held_to_overrides_of_that_time(traffic: Traffic) -> None:
    traffic.decide(slice(0, 6), DAY)
    recorded = traffic.recorded()
    override = Override(
        policy=POLICIES[0],
        tier="block",
        threshold=0.123,
        until=DAY + timedelta(days=1),
        reason="for a test",
        by="ana",
    )
    file = FILE.model_copy(update={"overrides": (override,)})
    cache = EmbeddingCache(traffic.home.embeddings)
    found = replayed_set(recorded, traffic.scorer, cache, file, RULES)
    assert found.candidate.thresholds == effective_thresholds(
        traffic.scorer.thresholds, file, recorded.until
    )
    assert found.candidate.thresholds[POLICIES[0]]["block"] == 0.123
    later = replayed_set(
        replace(recorded, until=DAY + timedelta(days=2)), traffic.scorer, cache, file, RULES
    )
    assert later.candidate.thresholds[POLICIES[0]].get("block") != 0.123


def test_replay_reads_embeddings_that_are_known(traffic: Traffic) -> None:
    traffic.decide(slice(0, 12), DAY)
    traffic.replayed(traffic.recorded())
    cache = EmbeddingCache(traffic.home.embeddings)
    replayed_set(traffic.recorded(), traffic.scorer, cache, FILE, RULES)
    assert cache.misses == 0
    assert cache.hits > 0


def test_feature_newer_than_a_decision_is_missing(traffic: Traffic) -> None:
    traffic.decide(slice(0, 5), DAY)
    decision = traffic.ledger.get_decision("t-u4")
    assert decision is not None
    older = decision.model_copy(update={"features": decision.features[1:]})
    assert behaviour_of(older)[1][0] == STATUS_CODES[SignalStatus.MISSING]
    assert behaviour_of(older)[0][1:].tolist() == behaviour_of(decision)[0][1:].tolist()


def test_candidate_that_refuses_takes_the_set_down(traffic: Traffic) -> None:
    traffic.decide(slice(0, 6), DAY)
    recorded = traffic.recorded()

    class Refusing(Scorer):
        def score_embedded(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no answer")

    with pytest.raises(BundleRejected, match="no answer"):
        traffic.replayed(recorded, Refusing(traffic.scorer.bundle))


def test_replay_tells_what_stage_1_decided_from_a_failed_model(traffic: Traffic) -> None:
    traffic.decide(slice(0, 4), DAY)
    signal = StageSignal(
        name="banks", policy=POLICIES[0], status="ok", tier="block", is_decisive=True
    )
    stage_1 = Stage1.of([signal], FILE, latency_ms=1.0)
    traffic.decide(slice(4, 7), DAY, attempts=(), decided_by="stage_1", stage_1=stage_1)
    recorded = traffic.recorded()
    assert len(recorded.rows.records) == 4
    assert recorded.facts["not replayed"] == f"3 {BY_STAGE_1}"


def test_replay_takes_a_duplicate_as_what_it_is_an_answer_of_a_release(traffic: Traffic) -> None:
    earlier = Earlier(decision_id="d", trace_id="t", submission_id="u")
    traffic.decide(slice(0, 4), DAY, decided_by="duplicate", duplicate_of=earlier)
    found = traffic.replayed(traffic.recorded())
    assert found.champion is not None
    assert found.num_rows == 4
    assert np.abs(found.candidate.probability_NP - found.champion.probability_NP).max() <= 1e-5
