"""A home's golden set through the real steps: drawn from the ledger, kept out of snapshots, found in a leaked one."""

import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from components import golden as drawing
from components.home import Home
from components.image_copies import image_copies
from components.ingest import step as ingest
from components.snapshot import step as freezing
from ledger.events import from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.errors import InvalidSnapshot, PermanentError
from moderation.export import export_towers
from moderation.golden import GoldenSet, latest_golden
from moderation.leaks import find_leaks
from moderation.listing import GroundTruth, TruthSource
from moderation.profiles import profile_named
from moderation.snapshot import Snapshot
from tests.golden_world import AS_OF, RULES, START, GoldenWorld, own_text

DAY = f"{AS_OF:%Y-%m-%d}"
POLICIES = Path("policies/marketplace.yaml").read_text(encoding="utf-8")
IDS = ("weapons", "counterfeit", "spam")


@pytest.fixture(scope="session")
def small_towers(pytestconfig: pytest.Config) -> Path:
    """Exported towers of the small profile, kept between runs."""
    folder = pytestconfig.cache.mkdir("small_towers")
    export_towers(profile_named("small"), folder)
    return folder


def _home(folder: Path, world: GoldenWorld, towers: Path) -> Home:
    home = Home(folder)
    home.folder.mkdir()
    home.towers.symlink_to(towers)
    _record(home, world, 0)
    return home


def _record(home: Home, world: GoldenWorld, begin: int) -> None:
    store, events = ContentStore(home.content), []
    for data in world.blobs.values():
        store.put(data)
    for row in world.rows[begin:]:
        submission = row.submission
        events.append(from_submission(submission, recorded_at=submission.submitted_at))
        at = submission.submitted_at + timedelta(hours=3)
        for policy in IDS:
            truth = GroundTruth(
                submission_id=submission.submission_id,
                policy=policy,
                violates=row.truth.get(policy, False),
                source=TruthSource.REVIEW if row.is_suspected else TruthSource.AUDIT,
                reviewed_at=at,
                known_at=at,
                adjudicated=bool(row.adjudicated),
            )
            events.append(from_ground_truth(truth, recorded_at=at))
    SqliteLedger(home.ledger).append(events)


def _world() -> GoldenWorld:
    """Return listings of which every second violates one of the policies in turn."""
    world = GoldenWorld.of(120)
    world.rows = [
        replace(row, truth={IDS[number // 2 % 3]: number % 2 == 0})
        for number, row in enumerate(world.rows)
    ]
    return world


def _build(home: Home) -> GoldenSet:
    rules = RULES.model_copy(update={"share_of_groups": 0.25})
    return drawing.build(home, AS_OF, IDS, rules)


def _frozen(home: Home, folder: Path) -> tuple[Snapshot, dict[str, float]]:
    rows = folder / "rows.parquet"
    ingest.run(str(home.folder), DAY, POLICIES, out=str(rows))
    done = freezing.run(str(rows), str(home.folder), DAY, POLICIES, 1, out=str(folder / "table"))
    return Snapshot.open(folder / "table"), done.counts


@pytest.mark.slow
def test_copies_of_golden_photos_stay_out(tmp_path: Path, small_towers: Path) -> None:
    world = _world()
    home = _home(tmp_path / "home", world, small_towers)
    golden = _build(home)
    row = next(r for r in world.rows if r.submission.submission_id == _first(golden))
    original = Image.open(io.BytesIO(world.blobs[row.submission.image_digests[0]]))
    begin = len(world.rows)
    altered = {
        "cropper": original.crop((9, 5, original.width - 5, original.height - 9)),
        "framer": ImageOps.expand(original, 15, "white"),
        "mirrorer": ImageOps.mirror(original),
    }
    for number, (seller, image) in enumerate(altered.items()):
        world.add(seller=seller, image=image, text=own_text(500 + number))
    _record(home, world, begin)
    snapshot, counts = _frozen(home, tmp_path)
    sellers = set(snapshot.column("seller_id").tolist())
    assert not sellers & {*altered, *golden.sellers}
    assert counts["quarantined_embedding"] == len(altered)
    assert counts["quarantined_golden"] == golden.table.num_rows
    check = find_leaks(snapshot, golden.table, image_copies(home))
    assert (check.rows > 50, check.leaks) == (True, ())


@pytest.mark.slow
def test_leak_is_found_when_golden_set_came_later(tmp_path: Path, small_towers: Path) -> None:
    world = _world()
    home = _home(tmp_path / "home", world, small_towers)
    snapshot, counts = _frozen(home, tmp_path)
    assert counts["quarantined"] == 0
    # As if that snapshot had been frozen elsewhere: its rows are drawn although they were fitted on.
    (home.golden / "fitted.jsonl").unlink()
    golden = _build(home)
    check = find_leaks(snapshot, golden.table, image_copies(home))
    assert {leak.how for leak in check.leaks} == {"id", "seller", "pdq", "text", "embedding"}


def test_what_was_frozen_cannot_become_golden(tmp_path: Path) -> None:
    home = _home(tmp_path / "home", _world(), tmp_path / "none")
    snapshot, _ = _frozen(home, tmp_path)
    ids, role_N = snapshot.column("submission_id"), snapshot.role
    golden = _build(home)
    drawn = set(golden.table.column("submission_id").tolist())
    assert not drawn & set(ids[role_N != "test"].tolist())
    assert golden.counts["excluded_trained_on"] >= int((role_N != "test").sum())


def test_snapshot_without_golden_set_is_as_before(tmp_path: Path) -> None:
    world = _world()
    home = _home(tmp_path / "home", world, tmp_path / "none")
    snapshot, counts = _frozen(home, tmp_path)
    assert counts["quarantined"] == 0
    assert not any(name.startswith("quarantined_") for name in counts)
    assert snapshot.num_rows + counts["purged"] + counts["copies"] == len(world.rows)
    assert not home.embeddings.exists()


def test_altered_golden_set_stops_the_snapshot(tmp_path: Path) -> None:
    home = _home(tmp_path / "home", _world(), tmp_path / "none")
    golden = _build(home)
    with (golden.folder / "golden.json").open("a") as file:
        file.write(" x")
    with pytest.raises(InvalidSnapshot, match="a golden set is never edited"):
        _frozen(home, tmp_path)


def test_golden_set_is_of_the_ledger_as_of_its_day(tmp_path: Path) -> None:
    home = _home(tmp_path / "home", _world(), tmp_path / "none")
    with pytest.raises(InvalidSnapshot, match="no golden set can be drawn"):
        drawing.build(home, START, IDS, RULES)
    assert latest_golden(home.golden) is None
    with pytest.raises(InvalidSnapshot, match="build one first"):
        drawing.rotate(home, AS_OF, IDS, RULES)
    with pytest.raises(PermanentError, match="holds no ledger"):
        drawing.build(Home(tmp_path / "empty"), AS_OF, IDS, RULES)


def _first(golden: GoldenSet) -> str:
    return str(golden.table.column("submission_id")[0])
