"""Leaks: whatever of the golden set is planted among the rows that are fitted on is found; clean rows have none."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from moderation import image_copies
from moderation.errors import InvalidSnapshot
from moderation.golden import GoldenSet
from moderation.image_copies import ImageCopies
from moderation.leaks import LeakCheck, find_leaks
from moderation.quarantine import REASONS, Quarantine
from moderation.snapshot import Snapshot, SnapshotRow, SnapshotWriter
from tests.golden_world import AS_OF, POLICIES, RULES, START, GoldenWorld, jpeg, own_text, photo
from tests.tiny_bundle import TinyRun

FEW = RULES.model_copy(update={"share_of_groups": 0.1})
"""So few golden photos that the random tower of tests proposes all of them; pixels decide."""

ROWS = 64


@pytest.fixture(scope="module")
def world() -> GoldenWorld:
    return GoldenWorld.of(ROWS)


@pytest.fixture(scope="module")
def golden(world: GoldenWorld, tmp_path_factory: pytest.TempPathFactory) -> GoldenSet:
    found = world.golden(tmp_path_factory.mktemp("golden"), FEW)
    assert 2 <= found.table.num_rows <= 12
    return found


def _images(world: GoldenWorld, tiny: TinyRun, folder: Path) -> ImageCopies:
    folder.mkdir(parents=True, exist_ok=True)
    return world.images(tiny.bundle.folder / "image_tower", folder)


def _victim(world: GoldenWorld, golden: GoldenSet) -> SnapshotRow:
    first = str(golden.table.column("submission_id")[0])
    return next(row for row in world.rows if row.submission.submission_id == first)


def _open(world: GoldenWorld, row: SnapshotRow) -> Image.Image:
    return Image.open(io.BytesIO(world.blobs[row.submission.image_digests[0]]))


def _crop(image: Image.Image) -> Image.Image:
    return image.crop((6, 4, image.width - 12, image.height - 10))


def _frozen(
    world: GoldenWorld, folder: Path, *, without: GoldenSet, extra: GoldenWorld
) -> Snapshot:
    """Freeze the world's rows of sellers that are not golden, and some planted ones, past the quarantine."""
    writer = SnapshotWriter(folder, POLICIES, AS_OF)
    clean = [r for r in world.rows if r.submission.listing.seller_id not in without.sellers]
    for row in extra.hashed(iter([*extra.rows, *clean])):
        writer.add(row)
    return writer.finish()


def _planted(world: GoldenWorld, golden: GoldenSet, way: str) -> GoldenWorld:
    """Return a world with one row, early enough to be fitted on, that leaks a golden item in one way."""
    victim = _victim(world, golden)
    text = victim.submission.listing.description
    plant = GoldenWorld(blobs=dict(world.blobs))
    other: dict[str, Any] = {"seller": "planted", "image": photo(9_000), "text": own_text(9_000)}
    if way == "id":
        early = victim.submission.model_copy(update={"submitted_at": START})
        plant.rows.append(replace(victim, submission=early))
        return plant
    if way == "seller":
        plant.add(**other | {"seller": victim.submission.listing.seller_id})
    elif way == "pdq":
        plant.add(**other | {"image": jpeg(_open(world, victim), 60)})
    elif way == "text":
        plant.add(**other | {"text": f"Top! {text.upper()} buy now, thank you"})
    elif way == "crop":
        plant.add(**other | {"image": _crop(_open(world, victim))})
    elif way == "frame":
        plant.add(**other | {"image": ImageOps.expand(_open(world, victim), 14, "white")})
    row = plant.rows[0]
    plant.rows[0] = replace(row, submission=row.submission.model_copy(
        update={"submission_id": "planted", "listing": row.submission.listing.model_copy(
            update={"listing_id": "planted"})}))  # fmt: skip
    return plant


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("id", {"id", "seller", "pdq", "text", "embedding"}),
        ("seller", {"seller"}),
        ("pdq", {"pdq", "embedding"}),
        ("text", {"text"}),
        ("crop", {"embedding"}),
        ("frame", {"embedding"}),
    ],
)
def test_planted_leak_is_found(
    world: GoldenWorld, golden: GoldenSet, tiny: TinyRun, tmp_path: Path, way: str, told: set[str]
) -> None:
    plant = _planted(world, golden, way)
    snapshot = _frozen(world, tmp_path / "table", without=golden, extra=plant)
    check = find_leaks(snapshot, golden.table, _images(plant, tiny, tmp_path))
    assert {leak.how for leak in check.leaks} == told
    victim = _victim(world, golden).submission.submission_id
    assert victim in {leak.item_id for leak in check.leaks}
    planted = plant.rows[0].submission.submission_id
    assert {leak.submission_id for leak in check.leaks} == {planted}


@pytest.mark.parametrize("way", ["id", "seller", "pdq", "text", "crop", "frame"])
def test_quarantine_keeps_out_what_would_leak(
    world: GoldenWorld, golden: GoldenSet, tiny: TinyRun, tmp_path: Path, way: str
) -> None:
    plant = _planted(world, golden, way)
    images = _images(plant, tiny, tmp_path)
    writer = SnapshotWriter(tmp_path / "table", POLICIES, AS_OF)
    for row in plant.hashed(iter([*plant.rows, *world.rows])):
        writer.add(row)
    snapshot = writer.finish(Quarantine.of(golden.folder.parent).bar(lambda: images))
    reason = {"id": "golden", "crop": "embedding", "frame": "embedding"}.get(way, way)
    assert snapshot.counts[f"quarantined_{reason}"] >= 1
    told = {name.removeprefix("quarantined_") for name in snapshot.counts if "ed_" in name}
    assert told <= set(REASONS)
    assert "planted" not in snapshot.column("submission_id").tolist()
    assert not set(snapshot.column("seller_id").tolist()) & golden.sellers
    assert find_leaks(snapshot, golden.table, images) == LeakCheck(
        snapshot.digest, int((snapshot.role != "test").sum()), ()
    )


def test_images_are_compared_once_for_all_time(
    world: GoldenWorld,
    golden: GoldenSet,
    tiny: TinyRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant = _planted(world, golden, "crop")
    snapshot = _frozen(world, tmp_path / "table", without=golden, extra=plant)
    first = find_leaks(snapshot, golden.table, _images(plant, tiny, tmp_path))
    assert first.leaks

    def again(*_: object) -> object:
        raise AssertionError("two images were compared a second time")

    monkeypatch.setattr(image_copies, "likeness", again)
    assert find_leaks(snapshot, golden.table, _images(plant, tiny, tmp_path)) == first


def test_test_rows_are_no_leak(
    world: GoldenWorld, golden: GoldenSet, tiny: TinyRun, tmp_path: Path
) -> None:
    plant = _planted(world, golden, "id")
    last = world.rows[-1].submission.submitted_at
    row = plant.rows[0]
    plant.rows[0] = replace(
        row, submission=row.submission.model_copy(update={"submitted_at": last})
    )
    snapshot = _frozen(world, tmp_path / "table", without=golden, extra=plant)
    assert plant.rows[0].submission.submission_id in snapshot.column("submission_id").tolist()
    assert find_leaks(snapshot, golden.table, _images(plant, tiny, tmp_path)).leaks == ()


def test_campaign_is_a_leak(tiny: TinyRun, tmp_path: Path) -> None:
    world = GoldenWorld.of(40)
    for number in range(6):
        world.add(seller=f"c{number}", text=own_text(700 + number), attributes={"campaign": "x"})
    golden = world.golden(tmp_path / "golden", RULES.model_copy(update={"share_of_groups": 0.999}))
    plant = GoldenWorld()
    for number in range(30):
        plant.add(
            seller=f"n{number}", text=own_text(800 + number), attributes={"campaign": "x"} if not number else {}
        )  # fmt: skip
    snapshot = _frozen(GoldenWorld(), tmp_path / "table", without=golden, extra=plant)
    check = find_leaks(snapshot, golden.table, _images(world, tiny, tmp_path))
    assert "campaign" in {leak.how for leak in check.leaks}


def test_forged_snapshot_is_refused(
    world: GoldenWorld, golden: GoldenSet, tiny: TinyRun, tmp_path: Path
) -> None:
    images = _images(world, tiny, tmp_path)
    honest = _frozen(world, tmp_path / "a", without=golden, extra=GoldenWorld(blobs=world.blobs))
    _frozen(world, tmp_path / "b", without=golden, extra=_planted(world, golden, "id"))
    (tmp_path / "a" / "rows.parquet").replace(tmp_path / "b" / "rows.parquet")
    with pytest.raises(InvalidSnapshot, match="freeze it again and train on it"):
        find_leaks(Snapshot.open(tmp_path / "b"), golden.table, images)
    with pytest.raises(InvalidSnapshot, match="cannot be searched for leaks"):
        find_leaks(honest, golden.table, images)


def test_quarantine_reaches_over_shared_places(tiny: TinyRun, tmp_path: Path) -> None:
    world = GoldenWorld()
    for number in range(8):
        world.add(seller=f"s{number}", text=own_text(number))
    world.add(seller="s0", listing={"device_fingerprint": "shared"}, truth={})
    world.golden(tmp_path / "golden", RULES.model_copy(update={"share_of_groups": 0.9999999}))
    both = {"device_fingerprint": "shared", "address_fingerprint": "here"}
    world.add(seller="mule", listing=both, text=own_text(70))
    world.add(seller="hidden", listing={"address_fingerprint": "here"}, text=own_text(71))
    for number in range(20):
        world.add(seller=f"new{number}", text=own_text(80 + number))
    writer = SnapshotWriter(tmp_path / "table", POLICIES, AS_OF)
    for row in world.hashed():
        if row.submission.listing.seller_id != "s0":  # its rows may be gone by then
            writer.add(row)
    images = _images(world, tiny, tmp_path)
    kept = writer.finish(Quarantine.of(tmp_path / "golden").bar(lambda: images))
    assert set(kept.column("seller_id").tolist()) <= {f"new{number}" for number in range(20)}
    assert kept.counts["quarantined_group"] == 2


def test_no_golden_set_keeps_nothing_out(tmp_path: Path) -> None:
    assert Quarantine.of(tmp_path).bar(lambda: pytest.fail("nothing is to be searched")) is None
