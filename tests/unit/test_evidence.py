"""Evidence: what was scored once can be judged again, and a damaged folder is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import AttackOutcome, Costs, Evidence, ScoredSet, digest_rows
from moderation.leaks import Leak, LeakCheck
from tests.gate_world import CANDIDATE, evidence_of, scored_set


def _whole() -> Evidence:
    attacked_RP = np.full((2, 3), 0.5)
    return evidence_of(
        scored_set(num_rows=60),
        scored_set("traffic", num_rows=40),
        attacks=(
            AttackOutcome("leet", "text", 1.0, np.arange(2), attacked_RP, attacked_RP),
            AttackOutcome("pgd", "white_box", np.inf, np.arange(2), attacked_RP, None),
        ),
        leaks=LeakCheck("c" * 64, 100, (Leak("golden-1", "s-1", "pdq"),)),
        costs=Costs(np.array([1.5, 2.0]), 100, None, None),
        facts={"code": "x"},
        missing={"fresh": "no truth arrived"},
        nothing_decided=True,
        only_own_decisions=True,
    )


def test_evidence_survives_saving(tmp_path: Path) -> None:
    said = _whole()
    said.save(tmp_path)
    read = Evidence.load(tmp_path)
    assert (read.candidate, read.champion, read.leaks) == (CANDIDATE, said.champion, said.leaks)
    assert (read.facts, read.missing) == (said.facts, said.missing)
    assert read.nothing_decided
    assert read.only_own_decisions
    assert [a.severity for a in read.attacks] == [1.0, np.inf]
    assert read.attacks[1].champion_RP is None
    assert read.costs is not None
    assert read.costs.champion_ms is None
    for name, one in said.sets.items():
        again = read.sets[name]
        assert again.digest == one.digest
        assert again.candidate.thresholds == one.candidate.thresholds
        np.testing.assert_array_equal(again.candidate.log_odds_NP, one.candidate.log_odds_NP)
        np.testing.assert_array_equal(again.slices["language"], one.slices["language"])


def test_evidence_is_refused_when_a_set_is_gone(tmp_path: Path) -> None:
    _whole().save(tmp_path)
    (tmp_path / "traffic.npz").unlink()
    with pytest.raises(InvalidSnapshot, match="score the sets again"):
        Evidence.load(tmp_path)


def test_evidence_is_refused_when_damaged(tmp_path: Path) -> None:
    _whole().save(tmp_path)
    (tmp_path / "golden.npz").write_bytes(b"PK nothing")
    with pytest.raises(InvalidSnapshot, match="no readable evidence"):
        Evidence.load(tmp_path)
    with pytest.raises(InvalidSnapshot, match="no readable evidence"):
        Evidence.load(tmp_path / "elsewhere")


def test_set_is_refused_when_rows_disagree() -> None:
    found = scored_set(num_rows=20)
    columns = {name: getattr(found, name) for name in found.__dataclass_fields__}
    with pytest.raises(InvalidSnapshot, match="weight must have 20 rows"):
        type(found)(**(columns | {"weight": np.ones(3)}))
    with pytest.raises(InvalidSnapshot, match="truth_NP is not of shape"):
        type(found)(**(columns | {"truth_NP": np.zeros((3, 3), np.int8)}))


def _without_head(found: ScoredSet, policy: str) -> ScoredSet:
    assert found.champion is not None
    column = found.policies.index(policy)
    log_odds_NP = found.champion.log_odds_NP.copy()
    log_odds_NP[:, column] = np.nan
    return replace(
        found, champion=replace(found.champion, log_odds_NP=log_odds_NP, lacks=(policy,))
    )


def test_lacking_head_survives_saving(tmp_path: Path) -> None:
    evidence_of(_without_head(scored_set(num_rows=30), "spam")).save(tmp_path)
    read = Evidence.load(tmp_path).sets["golden"]
    assert read.candidate.lacks == ()
    assert read.champion is not None
    assert read.champion.lacks == ("spam",)


def test_set_is_refused_when_a_lacking_head_answers() -> None:
    found = scored_set(num_rows=30)
    assert found.champion is not None
    with pytest.raises(InvalidSnapshot, match="spam is answered without a head"):
        replace(found, champion=replace(found.champion, lacks=("spam",)))
    with pytest.raises(InvalidSnapshot, match="no policy of it"):
        replace(found, champion=replace(found.champion, lacks=("astrology",)))


def test_digest_changes_with_every_part() -> None:
    ids, truth, weight = np.array(["a", "b"]), np.zeros((2, 1), np.int8), np.ones(2)
    others = [
        (np.array(["a", "c"]), truth, weight),
        (ids, truth + 1, weight),
        (ids, truth, weight * 2),
    ]
    first = digest_rows(ids, truth.astype(np.int8), weight)
    assert all(digest_rows(i, t.astype(np.int8), w) != first for i, t, w in others)
