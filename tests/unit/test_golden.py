"""Golden sets: what is drawn, what stays out, what an altered file leads to, looks and rotation."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moderation.errors import GateRejected, InvalidSnapshot
from moderation.golden import (
    GoldenSet,
    build_golden,
    golden_versions,
    latest_golden,
    looks,
    record_fitted,
    record_look,
    rotate_golden,
)
from moderation.snapshot import MATURITY, SnapshotWriter
from tests.golden_world import AS_OF, POLICIES, RULES, START, GoldenWorld, own_text, photo

MANY = RULES.model_copy(update={"share_of_groups": 0.99})


@pytest.fixture(scope="module")
def world() -> GoldenWorld:
    return GoldenWorld.of(120)


def _ids(golden: GoldenSet) -> list[str]:
    return [str(one) for one in golden.table.column("submission_id").tolist()]


def _rotate(root: Path, world: GoldenWorld) -> GoldenSet:
    return rotate_golden(
        root, lambda: world.rows, RULES, policy_ids=POLICIES, as_of=AS_OF, hashed=world.hashed
    )


def _freeze(folder: Path, world: GoldenWorld, sellers: set[str]) -> None:
    writer = SnapshotWriter(folder / "table", POLICIES, AS_OF)
    for row in world.rows:
        if row.submission.listing.seller_id in sellers:
            writer.add(row)
    record_fitted(folder / "golden", writer.finish())


def test_golden_set_holds_whole_sellers(world: GoldenWorld, tmp_path: Path) -> None:
    golden = world.golden(tmp_path)
    drawn = {row.submission.submission_id for row in world.rows
             if row.submission.listing.seller_id in golden.sellers}  # fmt: skip
    assert set(_ids(golden)) == drawn
    assert 0.15 < len(golden.sellers) / 60 < 0.45
    assert set(golden.table.role.tolist()) == {"golden"}
    assert golden.counts["items"] == len(drawn) == golden.table.num_rows
    truth_NP = golden.table.truth_NP()
    assert golden.counts["weapons_violations"] == int((truth_NP[:, 0] == 1).sum()) > 0
    suspected = {row.submission.submission_id for row in world.rows if row.is_suspected}
    assert golden.counts["spam_hard_negatives"] == len(drawn & suspected) > 0


def test_building_twice_gives_the_same_set(world: GoldenWorld, tmp_path: Path) -> None:
    first, second = world.golden(tmp_path / "a"), world.golden(tmp_path / "b")
    assert (first.digest, first.table.digest) == (second.digest, second.table.digest)
    with pytest.raises(InvalidSnapshot, match="has a golden set already"):
        world.golden(tmp_path / "a")


def test_sellers_on_one_device_are_drawn_together(tmp_path: Path) -> None:
    world = GoldenWorld.of(60)
    for number in range(60, 120):
        device = {"device_fingerprint": f"d{number // 4}"}
        world.add(seller=f"t{number // 2}", image=photo(number), listing=device)
    sellers = world.golden(tmp_path).sellers
    together = [{f"t{number // 2}", f"t{number // 2 + 1}"} for number in range(60, 120, 4)]
    assert {len(pair & sellers) for pair in together} == {0, 2}


def test_full_set_keeps_violations_and_adjudicated_first(tmp_path: Path) -> None:
    world = GoldenWorld.of(160)
    world.rows = [
        replace(row, adjudicated=frozenset(POLICIES)) if number % 3 == 0 else row
        for number, row in enumerate(world.rows)
    ]
    golden = world.golden(tmp_path, MANY.model_copy(update={"max_items": 40}))
    truth_NP = golden.table.truth_NP()
    assert golden.table.num_rows == 40
    assert int((truth_NP == 1).any(axis=1).sum()) == 20
    assert golden.table.adjudicated_NP()[(truth_NP == 1).any(axis=1)].mean() > 0.6
    assert golden.counts["adjudicated"] == int(golden.table.adjudicated_NP().all(axis=1).sum())


def test_unreviewed_and_immature_rows_stay_out(world: GoldenWorld, tmp_path: Path) -> None:
    early = START + MATURITY + timedelta(hours=50)
    rows = [replace(row, truth={}) if n % 5 == 0 else row for n, row in enumerate(world.rows)]
    golden = build_golden(tmp_path, lambda: rows, MANY, policy_ids=POLICIES, as_of=early)
    drawn = [int(one[1:]) for one in _ids(golden)]
    assert golden.counts["excluded_unknown_truth"] == 24
    assert golden.counts["excluded_immature"] == sum(n % 5 > 0 for n in range(51, 120))
    assert max(drawn) <= 50
    assert all(number % 5 for number in drawn)


def test_groups_that_were_trained_on_stay_out(world: GoldenWorld, tmp_path: Path) -> None:
    trained = {f"s{number}" for number in range(0, 60, 2)}
    _freeze(tmp_path, world, trained)
    golden = world.golden(tmp_path / "golden", MANY)
    fitted = {f"s{number}" for number in range(48)} & trained
    assert not golden.sellers & fitted
    assert golden.counts["excluded_trained_on"] >= 2 * len(golden.sellers & fitted)
    assert golden.counts["excluded_trained_on"] > 30


def test_nothing_can_be_drawn_when_all_was_trained_on(tmp_path: Path) -> None:
    world = GoldenWorld.of(40)
    _freeze(tmp_path, world, {f"s{number}" for number in range(20)})
    world.rows = world.rows[:30]
    with pytest.raises(InvalidSnapshot, match=r"no golden set can be drawn: .*trained on"):
        world.golden(tmp_path / "golden", MANY)


def _edit_manifest(folder: Path) -> None:
    content = json.loads((folder / "golden.json").read_text())
    content["links"] = content["links"][1:]
    (folder / "golden.json").write_text(json.dumps(content))


def _edit_rows(folder: Path) -> None:
    table = pq.read_table(folder / "rows.parquet")
    pq.write_table(table.slice(1), folder / "rows.parquet")


def _edit_policies(folder: Path) -> None:
    content = json.loads((folder / "snapshot.json").read_text())
    content["policies"] = content["policies"][::-1]
    (folder / "snapshot.json").write_text(json.dumps(content))


def _swap_marks(folder: Path) -> None:
    GoldenWorld.of(30).golden(folder / "other", MANY)
    (folder / "other" / "1" / "texts.npz").replace(folder / "texts.npz")


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (_edit_manifest, r"golden\.json was altered"),
        (_edit_rows, r"rows\.parquet was altered"),
        (_edit_policies, "the policies was altered"),
        (_swap_marks, r"texts\.npz was altered"),
        (lambda folder: (folder / "rows.parquet").write_bytes(b"x"), r"rows\.parquet is damaged"),
        (lambda folder: (folder / "golden.json").write_text("{}"), "no readable golden set"),
        (lambda folder: (folder / "golden.json").write_text("[]"), "no readable golden set"),
    ],
    ids=["manifest", "rows", "policies", "marks", "damage", "empty", "list"],
)
def test_altered_set_is_refused(
    world: GoldenWorld, tmp_path: Path, alter: Callable[[Path], object], named: str
) -> None:
    world.golden(tmp_path)
    alter(tmp_path / "1")
    with pytest.raises(InvalidSnapshot, match=named):
        latest_golden(tmp_path)


def test_renamed_version_is_refused(world: GoldenWorld, tmp_path: Path) -> None:
    world.golden(tmp_path)
    (tmp_path / "1").rename(tmp_path / "2")
    with pytest.raises(InvalidSnapshot, match="the version was altered"):
        latest_golden(tmp_path)
    with pytest.raises(InvalidSnapshot, match="versions are missing"):
        golden_versions(tmp_path)


def test_no_golden_set_is_no_error(tmp_path: Path) -> None:
    assert latest_golden(tmp_path / "nowhere") is None
    assert golden_versions(tmp_path / "nowhere") == []
    assert looks(tmp_path / "nowhere") == []


def test_looks_are_logged_and_run_out(world: GoldenWorld, tmp_path: Path) -> None:
    golden = world.golden(tmp_path)

    def look(bundle: str, seed: int = 17) -> int:
        return record_look(golden, bundle=bundle, seed=seed, by="prove", at=AS_OF, max_looks=3)

    assert [look(bundle) for bundle in ("a", "b", "a", "c", "c")] == [1, 2, 2, 3, 3]
    with pytest.raises(GateRejected, match="3 of 3 looks"):
        look("a", seed=18)
    with pytest.raises(GateRejected, match="3 of 3 looks at golden set 1 are used.*golden rotate"):
        look("d")
    seen = looks(tmp_path)
    assert [one.bundle for one in seen] == ["a", "b", "a", "c", "c"]
    assert {(one.version, one.golden, one.by, one.at) for one in seen} == {
        (1, golden.digest, "prove", AS_OF)
    }


def test_look_under_another_seed_counts(world: GoldenWorld, tmp_path: Path) -> None:
    golden = world.golden(tmp_path)
    counted = [
        record_look(golden, bundle="a", seed=seed, by="prove", at=AS_OF, max_looks=3)
        for seed in (1, 1, 2, 2, 3)
    ]
    assert counted == [1, 1, 2, 2, 3]
    with pytest.raises(GateRejected, match="3 of 3 looks"):
        record_look(golden, bundle="a", seed=4, by="prove", at=AS_OF, max_looks=3)


def test_damaged_logs_are_refused(world: GoldenWorld, tmp_path: Path) -> None:
    golden = world.golden(tmp_path)
    (tmp_path / "looks.jsonl").write_text("{}\n")
    with pytest.raises(InvalidSnapshot, match=r"looks\.jsonl is damaged"):
        record_look(golden, bundle="a", seed=17, by="x", at=AS_OF, max_looks=3)
    (tmp_path / "fitted.jsonl").write_text("no json\n")
    with pytest.raises(InvalidSnapshot, match=r"fitted\.jsonl is damaged"):
        _rotate(tmp_path, world)


def test_rotation_exchanges_some_groups_for_unused(world: GoldenWorld, tmp_path: Path) -> None:
    first = world.golden(tmp_path)
    second = _rotate(tmp_path, world)
    out, new = set(_ids(first)) - set(_ids(second)), set(_ids(second)) - set(_ids(first))
    groups = first.counts["groups"]
    assert second.version == 2
    assert second.counts["retired_groups"] == max(1, round(0.2 * groups))
    assert (len(out), len(new)) == (second.counts["retired_items"], second.counts["new_items"])
    assert new
    assert second.counts["groups"] == groups
    assert GoldenSet.open(tmp_path / "1").digest == first.digest
    third = _rotate(tmp_path, world)
    assert not set(_ids(third)) & out, "what was retired never comes back"
    latest = latest_golden(tmp_path)
    assert latest is not None
    assert latest.digest == third.digest


def test_rotation_gives_new_looks(world: GoldenWorld, tmp_path: Path) -> None:
    first = world.golden(tmp_path)
    record_look(first, bundle="a", seed=17, by="x", at=AS_OF, max_looks=1)
    second = _rotate(tmp_path, world)
    assert record_look(second, bundle="b", seed=17, by="x", at=AS_OF, max_looks=1) == 1


def test_rotation_corrects_truth_and_drops_what_is_gone(tmp_path: Path) -> None:
    world = GoldenWorld.of(120)
    first = _ids(world.golden(tmp_path))
    changed = {"weapons": False, "spam": True}
    gone, world.rows = set(first[:3]), [
        replace(row, truth=changed) for row in world.rows if row.submission.submission_id not in first[:3]
    ]  # fmt: skip
    second = _rotate(tmp_path, world)
    assert second.table.truth_NP().tolist() == [[0, 1]] * second.table.num_rows
    assert second.counts["gone_items"] + second.counts["retired_items"] >= len(gone)
    assert not set(_ids(second)) & gone


def test_rotation_needs_a_set_and_unused_groups(world: GoldenWorld, tmp_path: Path) -> None:
    with pytest.raises(InvalidSnapshot, match="has no golden set; build one first"):
        _rotate(tmp_path, world)
    world.golden(tmp_path, RULES.model_copy(update={"share_of_groups": 0.9999999}))
    with pytest.raises(InvalidSnapshot, match="no group is left to rotate in"):
        _rotate(tmp_path, world)


def test_rows_without_seller_are_drawn_by_listing(tmp_path: Path) -> None:
    world = GoldenWorld()
    for number in range(40):
        world.add(seller=None, text=own_text(number), attributes={"hard_negative": "yes"})
    golden = world.golden(tmp_path)
    assert 4 < golden.counts["groups"] == golden.table.num_rows < 25
    assert golden.counts["weapons_hard_negatives"] == golden.table.num_rows
    assert golden.sellers == frozenset()
