"""What comes again of an erased seller: no import and no golden set brings it back."""

from pathlib import Path

import pytest

from components import golden as drawing
from components.home import Home
from featurestore.layout import Place
from ledger.events import from_ground_truth, from_submission
from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.clock import SystemClock
from moderation.golden import GoldenSet
from moderation.listing import GroundTruth, TruthSource
from tests.golden_world import AS_OF, POLICIES, RULES, GoldenWorld
from tests.shop import Shop, photo, row, write_parquet
from tidegate.erasing import Eraser, belonging


def test_import_does_not_bring_back_who_was_erased(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    rows = [row(sku="a", photo=photo()), row(sku="b", photo=photo())]
    path = write_parquet(tmp_path, rows)
    shop.run(path)
    (seller_id,) = {one.listing.seller_id for one in shop.submissions}
    assert seller_id
    key_id = shop.ledger.erase(seller_id, belonging, SystemClock().now()).key_id
    assert shop.store.remove(key_id) == 1, "the same photo twice is one file"
    report = shop.run(write_parquet(tmp_path, [*rows, row(sku="c", shop="Another")]))
    assert (report.imported, report.skipped) == (1, 2)
    assert report.bad == {"seller_id": 2}
    assert "was erased" in shop.told[0]["reason"]
    assert KeyRing(tmp_path / "home" / "keys.sqlite").find(seller_id) is None
    assert [one.listing.listing_id for one in shop.submissions] == ["c"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home, world, events = Home(tmp_path / "home"), GoldenWorld.of(120), []
    store, sellers = ContentStore(home.content), dict[str, str | None]()
    for one in world.rows:
        sellers |= dict.fromkeys(one.submission.image_digests, one.submission.listing.seller_id)
        seller_id = one.submission.listing.seller_id
        at = one.submission.submitted_at
        events.append(from_submission(one.submission, recorded_at=at))
        for policy, violates in one.truth.items():
            truth = GroundTruth(
                submission_id=one.submission.submission_id,
                policy=policy,
                violates=violates,
                source=TruthSource.AUDIT,
                reviewed_at=at,
                known_at=at,
            )
            events.append(from_ground_truth(truth, recorded_at=at, seller_id=seller_id))
    for digest, data in world.blobs.items():
        store.put(data, sellers[digest])
    SqliteLedger(home.ledger).append(events)
    return home


def _sellers(golden: GoldenSet) -> set[str]:
    return set(golden.table.column("seller_id").tolist())


def test_the_next_golden_set_leaves_an_erased_seller_out(home: Home) -> None:
    first = drawing.build(home, AS_OF, POLICIES, RULES)
    gone = sorted(_sellers(first))[0]
    place = Place((home.folder / "features").absolute())
    (receipt,) = Eraser(home, place, SystemClock()).erase(gone)
    assert "golden items, frozen" in receipt.left[str(first.folder)]
    second = drawing.rotate(home, AS_OF, POLICIES, RULES)
    assert gone not in _sellers(second)
    assert gone not in second.sellers
    assert gone in _sellers(GoldenSet.open(first.folder)), "what is frozen stays as it was"
    assert second.counts["gone_items"] + second.counts["retired_items"] >= 1
