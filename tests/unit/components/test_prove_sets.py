"""The frozen sets of a proof: which rows, in whose columns, answered by both bundles alike."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.home import Home
from components.prove.frozen import freeze, records_of
from components.prove.lineage import cut_off_of, record_cut_off
from components.prove.opponents import Opponents
from components.prove.sets import fresh_rows, traffic_rows
from ledger.events import from_reversal
from ledger.ledger import SqliteLedger
from ledger.store import ContentMissing, ContentStore
from moderation.embedding_cache import EmbeddingCache
from moderation.errors import BundleRejected, InvalidSnapshot, PermanentError
from moderation.listing import Reversal, ReversalReason
from moderation.release import SliceRules, load_release
from moderation.scoring import Scorer, ScoringItem
from tests.gate_world import CONTRACT
from tests.prove_world import ProveWorld, prove_world, record, renamed
from tests.tiny_bundle import TinyRun
from tests.toy import POLICIES, toy_world

RULES: SliceRules = load_release(CONTRACT).slices


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> ProveWorld:
    return prove_world(tmp_path_factory.mktemp("sets"), tiny)


@pytest.fixture
def opponents(world: ProveWorld, tmp_path: Path) -> Opponents:
    cache = EmbeddingCache(tmp_path / "embeddings.sqlite")
    return Opponents(Scorer(world.candidate), Scorer(world.champion), cache)


def _read(home: Home) -> Any:
    return ContentStore(home.content).get


def test_traffic_is_the_test_rows_with_their_weights(
    world: ProveWorld, opponents: Opponents
) -> None:
    rows = traffic_rows(world.table, POLICIES, _read(world.home))
    found = opponents.answer(rows, RULES)
    is_test_N = world.table.role == "test"
    assert found.num_rows == is_test_N.sum() > 20
    assert found.item_id.tolist() == world.table.column("submission_id")[is_test_N].tolist()
    assert np.array_equal(found.truth_NP, world.table.truth_NP()[is_test_N])
    assert np.array_equal(found.weight, world.table.weight[is_test_N])
    assert np.array_equal(found.group, world.table.group[is_test_N])
    assert found.slices["language"].tolist() == [""] * found.num_rows
    assert {"new", "young", "old"} & set(found.slices["seller_age"].tolist())


def test_answers_are_those_of_each_bundle(world: ProveWorld, opponents: Opponents) -> None:
    rows = traffic_rows(world.table, POLICIES, _read(world.home))
    found = opponents.answer(rows, RULES)
    items = [
        ScoringItem(
            item.title, item.description, [image.load() for image in item.images], item.behaviour
        )
        for item in rows.items
    ]
    for answers, bundle in ((found.candidate, world.candidate), (found.champion, world.champion)):
        assert answers is not None
        scorer = Scorer(bundle)
        expected = scorer.score(items)
        assert answers.bundle == bundle.digest
        assert np.abs(answers.probability_NP - expected.probability_NP).max() <= 1e-5
        odds_NP = np.log(answers.probability_NP / (1 - answers.probability_NP))
        assert np.abs(answers.log_odds_NP - odds_NP).max() <= 1e-6
        assert answers.thresholds == scorer.thresholds
    assert found.champion is not None
    assert np.abs(found.candidate.log_odds_NP - found.champion.log_odds_NP).max() > 0.01


def test_set_digest_changes_with_truth_alone(world: ProveWorld, opponents: Opponents) -> None:
    rows = traffic_rows(world.table, POLICIES, _read(world.home))
    alone = Opponents(opponents.champion or opponents.candidate, None, opponents.cache)
    digest = opponents.answer(rows, RULES).digest
    assert alone.answer(rows, RULES).digest == digest
    assert alone.answer(replace(rows, truth_NP=1 - rows.truth_NP), RULES).digest != digest


def test_columns_follow_the_candidate_by_name(world: ProveWorld) -> None:
    asked = (POLICIES[2], "unheard", POLICIES[0])
    records = list(records_of(world.table, "test"))
    rows = freeze("traffic", records, POLICIES, asked, _read(world.home))
    truth_NP = np.array([record["truth"] for record in records])
    assert np.array_equal(rows.truth_NP[:, [0, 2]], truth_NP[:, [2, 0]])
    assert (rows.truth_NP[:, 1] == -1).all()
    assert not rows.adjudicated_NP[:, 1].any()
    with pytest.raises(InvalidSnapshot, match="knows none of the candidate's policies"):
        freeze("traffic", records, POLICIES, ("unheard",), _read(world.home))
    with pytest.raises(InvalidSnapshot, match="the set traffic has no row"):
        freeze("traffic", [], POLICIES, POLICIES, _read(world.home))


def test_champion_has_no_figure_when_it_lacks_a_policy(
    world: ProveWorld, opponents: Opponents
) -> None:
    assert opponents.champion is not None
    opponents.champion.policies = ("unheard", *POLICIES[1:])
    rows = traffic_rows(world.table, POLICIES, _read(world.home))
    found = opponents.answer(rows, RULES)
    assert found.champion is not None
    assert np.isnan(found.champion.log_odds_NP[:, 0]).all()
    assert np.isfinite(found.champion.log_odds_NP[:, 1:]).all()
    assert found.champion.lacks == POLICIES[:1]
    assert found.candidate.lacks == ()


def test_champion_is_left_out_when_it_refuses(world: ProveWorld, opponents: Opponents) -> None:
    champion = opponents.champion
    assert champion is not None
    champion.ngram = replace(champion.ngram, intercept_P=np.full(len(POLICIES), np.nan))
    rows = traffic_rows(world.table, POLICIES, _read(world.home))
    found = opponents.answer(rows, RULES)
    assert found.champion is None
    assert "gives no scores" in opponents.missing["champion on traffic"]
    candidate = replace(opponents, candidate=champion)
    with pytest.raises(BundleRejected, match="gives no scores"):
        candidate.answer(rows, RULES)


def test_set_is_refused_when_an_image_is_gone(world: ProveWorld, opponents: Opponents) -> None:
    def gone(digest: str) -> bytes:
        raise ContentMissing(f"{digest} is not in the content store")

    with pytest.raises(ContentMissing):
        opponents.answer(traffic_rows(world.table, POLICIES, gone), RULES)


def test_fresh_is_what_no_training_could_see(world: ProveWorld, tmp_path: Path) -> None:
    home, early = Home(tmp_path), toy_world(40, seed=31)
    after = early.rows[-1].submission.submitted_at + timedelta(days=10)
    record(home, early, known_after=timedelta(hours=2))
    record(home, renamed(early, "late-", timedelta(0)), known_after=timedelta(days=20))
    record(home, renamed(early, "new-", timedelta(days=30)), known_after=timedelta(hours=1))
    known = frozenset({"late-u0"})
    rows = fresh_rows(home, after, POLICIES, _read(home), known=known)
    ids = [record["submission_id"] for record in rows.records]
    newest = early.rows[-1].submission.submitted_at + timedelta(days=30)
    mature = [f"late-u{number}" for number in range(1, 40)]
    assert ids[:39] == mature
    assert all(record["submitted_at"] <= newest - timedelta(days=3) for record in rows.records)
    assert "u0" not in ids
    assert rows.truth_NP[0].tolist() == [int(early.rows[1].truth[p]) for p in POLICIES]
    assert rows.adjudicated_NP.all()
    groups = rows.column("group", np.int64)
    assert groups[1] == groups[2] != groups[3]  # two uploads of one seller belong together


def test_fresh_leaves_out_what_a_reversal_had_told(tmp_path: Path) -> None:
    home, world = Home(tmp_path), toy_world(40, seed=31)
    first = world.rows[0].submission
    after = first.submitted_at + timedelta(days=10)
    record(home, world, known_after=timedelta(days=20))
    reversal = Reversal(
        reversal_id="v",
        submission_id=first.submission_id,
        reason=ReversalReason.FALSE_POSITIVE,
        reversed_at=after,
        known_at=after,
    )
    SqliteLedger(home.ledger).append([from_reversal(reversal, recorded_at=after)])
    rows = fresh_rows(home, after, POLICIES, _read(home), known=frozenset())
    ids = [record["submission_id"] for record in rows.records]
    assert ids == [f"u{number}" for number in range(1, 40)]


def test_fresh_is_refused_when_no_truth_came_later(tmp_path: Path) -> None:
    home, world = Home(tmp_path), toy_world(8, seed=31)
    after = datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidSnapshot, match="is not there"):
        fresh_rows(home, after, POLICIES, bytes, known=frozenset())  # type: ignore[arg-type]  # never read
    record(home, world, known_after=timedelta(hours=2))
    with pytest.raises(InvalidSnapshot, match="no truth arrived after 2027-01-01"):
        fresh_rows(home, after, POLICIES, _read(home), known=frozenset())
    start = world.rows[0].submission.submitted_at
    with pytest.raises(InvalidSnapshot, match="no submission has mature truth"):
        fresh_rows(home, start, POLICIES, _read(home), known=frozenset())


def test_cut_off_is_known_once_a_bundle_was_proved(
    world: ProveWorld, tiny: TinyRun, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    with pytest.raises(PermanentError, match="until when bundle .* is unknown here"):
        cut_off_of(home, world.candidate)
    theirs = world.champion_table.digest[:12]
    record_cut_off(home, world.candidate, world.table)
    assert cut_off_of(home, world.candidate) == world.table.cut_off
    with pytest.raises(PermanentError, match=f"was trained on snapshot {theirs}"):
        record_cut_off(home, world.champion, world.table)
    path = home.reports / world.candidate.digest / "cut_off.json"
    path.write_text(path.read_text().replace(world.table.digest, "d" * 64))
    with pytest.raises(PermanentError, match="of another snapshot"):
        cut_off_of(home, world.candidate)
