"""Import of foreign tables: good rows reach the ledger once, bad rows are told and skipped."""

import fcntl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger.importing import (
    Destination,
    NothingImported,
    import_listings,
    open_source,
    partial_report,
)
from ledger.mapping import UNDATED, MappingError
from ledger.tables import TableError
from moderation.clock import SimulatedClock
from tests.shop import (
    GROCERY,
    MAPPING,
    MARKET,
    NOW,
    Shop,
    photo,
    row,
    write_csv,
    write_mapping,
    write_parquet,
)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_import_reads_every_field_of_a_row(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row(photo=photo(camera="Spy 3"), trick="bland")])
    report = shop.run(path)
    (found,) = shop.submissions
    listing = found.listing
    assert (listing.listing_id, listing.title, listing.description) == (
        "a-1",
        "Oat drink",
        "One litre",
    )
    assert (listing.price, listing.currency, listing.language) == (1.5, "EUR", "en")
    assert listing.seller_id is not None
    assert listing.seller_id.startswith("Shop-No.-7-")
    assert found.submitted_at == datetime(2026, 4, 1, 12, tzinfo=UTC)
    assert found.inclusion_probability == 0.25
    assert found.attributes == {"split": "test", "evasion": "bland"}
    stored = shop.store.get(found.image_digests[0])
    assert b"Spy 3" not in stored
    (truth,) = shop.truths
    assert truth.violates
    assert truth.source == "import"
    assert truth.known_at == found.submitted_at
    assert (report.rows, report.imported, report.images) == (1, 1, 1)
    assert report.origin == str(path.parent / "mapping.yaml")


def test_import_takes_the_first_column_that_holds_something(shop: Shop, tmp_path: Path) -> None:
    rows = [row(sku="a", evasive="Cow milk"), row(sku="b", evasive=""), row(sku="c")]
    shop.run(write_parquet(tmp_path, rows))
    assert [s.listing.title for s in shop.submissions] == ["Cow milk", "Oat drink", "Oat drink"]


BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("title", {"name": "x" * 301}, "at most 300"),
    ("title", {"name": "a\x00b"}, "NUL"),
    ("price", {"price": -1.0}, "finite number"),
    ("price", {"price": float("inf")}, "finite number"),
    ("currency", {"money": "doubloons"}, "ISO 4217"),
    ("language", {"lang": "klingon!"}, "pattern"),
    ("images[0]", {"photo": photo()[:90]}, "truncated or corrupt"),
    ("images[0]", {"photo": b"<svg/>"}, "known format"),
    ("weight", {"w": 0.5}, "at least 1"),
    ("weight", {"w": None}, "missing"),
    ("split", {"part": None}, "missing"),
    ("submitted_at", {"when": None}, "missing"),
    ("truth.plant_based_carton", {"banned": "perhaps"}, "neither a positive nor a negative"),
]


def test_import_skips_and_tells_each_bad_row(shop: Shop, tmp_path: Path) -> None:
    rows = [row(sku=f"bad-{i}", **changes) for i, (_, changes, _) in enumerate(BAD_ROWS)]
    report = shop.run(write_parquet(tmp_path, [row(sku="first"), *rows, row(sku="last")]))
    assert (report.rows, report.imported, report.skipped) == (len(rows) + 2, 2, len(rows))
    assert [s.listing.listing_id for s in shop.submissions] == ["first", "last"]
    assert len(shop.truths) == 2
    assert [line["row"] for line in shop.told] == list(range(2, len(rows) + 2))
    for line, (name, _, reason) in zip(shop.told, BAD_ROWS, strict=True):
        assert line["bad"] == name
        assert reason in line["reason"]
    assert sum(report.bad.values()) == len(rows)
    assert f"2 of {len(rows) + 2} rows imported" in report.summary()


def test_import_skips_a_price_that_is_true(shop: Shop, tmp_path: Path) -> None:
    rows = [row(sku="a", price=True), row(sku="b", price=None)]
    shop.run(write_parquet(tmp_path, rows))
    assert [line["bad"] for line in shop.told if "bad" in line] == ["price"]


def test_import_tells_what_is_missing(shop: Shop, tmp_path: Path) -> None:
    bare = row(price=float("nan"), money=None, photo=None, shop=None, text="", banned=None)
    report = shop.run(write_parquet(tmp_path, [row(sku="full"), bare]))
    names = ["description", "price", "currency", "seller_id", "images", "truth.plant_based_carton"]
    assert shop.told == [{"row": 2, "listing_id": "a-1", "missing": names}]
    assert report.missing == dict.fromkeys(names, 1)
    assert report.truth == {"plant_based_carton": {"positive": 1, "unknown": 1}}
    assert [s.listing.price for s in shop.submissions] == [1.5, None]


def test_import_changes_nothing_when_run_again(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row(sku=f"a-{i}") for i in range(150)])
    first = shop.run(path)
    last = shop.ledger.last_sequence()
    again = shop.run(path)
    assert (first.imported, first.already_there) == (150, 0)
    assert (again.imported, again.already_there) == (150, 150)
    assert shop.ledger.last_sequence() == last == 300


def test_import_goes_on_where_an_earlier_one_stopped(shop: Shop, tmp_path: Path) -> None:
    rows = [row(sku=f"a-{i}") for i in range(100)]
    shop.run(write_parquet(tmp_path, rows[:70]))
    report = shop.run(write_parquet(tmp_path, rows))
    assert (report.imported, report.already_there) == (100, 70)
    assert len(shop.submissions) == len(shop.truths) == 100


def test_import_adds_truth_that_has_arrived_since(shop: Shop, tmp_path: Path) -> None:
    shop.run(write_parquet(tmp_path, [row(banned=None), row(sku="b")]))
    assert len(shop.truths) == 1
    shop.run(write_parquet(tmp_path, [row(banned="no"), row(sku="b")]))
    assert [(t.submission_id[:3], t.violates) for t in shop.truths] == [
        ("b:" + shop.submissions[1].submission_id[2], True),
        ("a-1", False),
    ]


def test_import_refuses_a_listing_twice_with_other_content(shop: Shop, tmp_path: Path) -> None:
    rows = [row(), row(name="Soy drink"), row(sku="b")]
    report = shop.run(write_parquet(tmp_path, rows))
    assert (report.imported, report.bad) == (2, {"listing_id": 1})
    assert [s.listing.title for s in shop.submissions] == ["Oat drink", "Oat drink"]
    assert "another content" in shop.told[0]["reason"]


def test_import_takes_one_listing_at_two_times(shop: Shop, tmp_path: Path) -> None:
    rows = [row(), row(name="Soy drink", when=datetime(2026, 4, 2))]
    assert shop.run(write_parquet(tmp_path, rows)).imported == 2


def test_import_fails_when_no_row_is_good(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row(money="?"), row(price=-1.0)])
    with pytest.raises(NothingImported, match=r"skipped 1: bad currency"):
        shop.run(path)
    assert len(shop.told) == 2
    assert shop.ledger.last_sequence() == 0


def test_import_fails_when_the_table_is_empty(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row()])
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(NothingImported, match="0 of 0 rows"):
        shop.run(path)


def test_import_keeps_the_old_report_when_it_breaks(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row(sku=f"a-{i}", photo=photo(i)) for i in range(200)])
    shop.report_file.write_text("old\n")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    damaged = path.with_name("damaged.parquet")
    damaged.write_bytes(data)
    path.unlink()
    try:
        report = shop.run(damaged)
    except TableError:
        assert shop.report_file.read_text() == "old\n"
    else:
        assert report.skipped > 0
    assert not list(shop.report_file.parent.glob("*.partial"))


def test_import_reads_a_csv_beside_its_images(shop: Shop, tmp_path: Path) -> None:
    text = (
        "\ufeffid,title,image,price,gun,spam\r\n"
        'a 1,"Rifle, old\nand ""rusty""",0.jpg|1.jpg,19.90,1,0\r\n'
        "b,Vase,,,0,\r\n"
    )
    report = shop.run(write_csv(tmp_path, text), MARKET)
    first, second = shop.submissions
    assert first.listing.title == 'Rifle, old\nand "rusty"'
    assert first.listing.listing_id.startswith("a-1-")
    assert len(first.image_digests) == 2
    assert second.image_digests == ()
    assert second.submitted_at == UNDATED
    assert second.attributes == {"time": "unknown"}
    assert {(t.policy, t.violates) for t in shop.truths} == {
        ("weapons", True),
        ("weapons", False),
        ("spam", False),
    }
    assert report.truth["spam"] == {"negative": 1, "unknown": 1}


BAD_CSV_ROWS = [
    ("a,x,9.jpg,1,0,0", "images[0]", "not in the image folder"),
    ("b,x,../listings.csv,1,0,0", "images[0]", "outside the image folder"),
    ("c,x,/etc/hostname,1,0,0", "images[0]", "outside the image folder"),
    ("d,x,0.jpg|" + "|".join(["1.jpg"] * 8) + ",1,0,0", "images", "at most 8"),
    ("e,x,,cheap,0,0", "price", "not a number"),
    ("f,x,,1,0,maybe", "truth.spam", "neither a positive"),
    ("g,x,,1,0,0,more,and more", "row", "2 cells more"),
    ("h,caf\udce9,,1,0,0", "title", "surrogate"),
]


def test_import_tells_each_bad_row_of_a_csv(shop: Shop, tmp_path: Path) -> None:
    lines = ["id,title,image,price,gun,spam", *(line for line, _, _ in BAD_CSV_ROWS), "z,ok,,1,0,0"]
    data = write_csv(tmp_path, "id,title,image,price,gun,spam\n")
    (data / "listings.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    report = shop.run(data, MARKET)
    assert report.imported == 1
    told = [(line["row"], line["bad"]) for line in shop.told if "bad" in line]
    assert told == [(i, name) for i, (_, name, _) in enumerate(BAD_CSV_ROWS, 1)]
    for line, (_, _, reason) in zip(shop.told, BAD_CSV_ROWS, strict=False):
        assert reason in line["reason"]


def test_import_reads_lists_and_pairs_of_images(shop: Shop, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "images": [{"bytes": photo(0), "path": None}, None], "label": 1},
        {"id": "b", "images": [], "label": 0},
    ]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = shop.run(path)
    assert report.origin == "guessed from the column names"
    assert [len(s.image_digests) for s in shop.submissions] == [1, 0]


def test_import_leaves_truth_unknown_when_a_guess_is_unsure(shop: Shop, tmp_path: Path) -> None:
    positive = ["1", "TRUE", " Yes ", "y", "Violation", "1.0"]
    negative = ["0", "false", "No", "N", "0.0"]
    unsure = ["unknown", "pending", "2", "-1"]
    rows = [
        {"id": f"a-{i}", "title": "x", "label": value}
        for i, value in enumerate([*positive, *negative, *unsure])
    ]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = shop.run(path)
    assert [t.violates for t in shop.truths] == [True] * len(positive) + [False] * len(negative)
    (seen,) = report.truth.values()
    assert seen["unknown"] == len(unsure)
    reasons = [line["unclear"]["truth.plant_based_carton"] for line in shop.told]
    assert [reason.split("'")[1] for reason in reasons] == unsure


def test_import_hands_on_its_progress(shop: Shop, tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path, [row(sku=f"a-{i}") for i in range(70)]), ())
    target = Destination(shop.ledger, shop.store, shop.report_file)
    seen: list[int] = []
    import_listings(source, GROCERY, target, SimulatedClock(NOW), on_progress=seen.append)
    assert seen == [64, 70]


def test_report_is_locked_while_the_import_runs(shop: Shop, tmp_path: Path) -> None:
    """So an erasure knows a report that is being written from one that a killed import left."""
    source = open_source(write_parquet(tmp_path, [row()]), ())
    target, tried = Destination(shop.ledger, shop.store, shop.report_file), list[int]()

    def look(rows: int) -> None:
        with partial_report(shop.report_file).open() as held, pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(rows)

    import_listings(source, GROCERY, target, SimulatedClock(NOW), on_progress=look)
    assert tried == [1]
    assert not partial_report(shop.report_file).exists()


def test_import_refuses_a_policy_that_is_not_there(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row()])
    with pytest.raises(MappingError, match="plant_based_carton, which is no policy"):
        shop.run(path, MARKET)


def test_import_takes_known_at_from_its_column(shop: Shop, tmp_path: Path) -> None:
    rows = [
        row(sku="a", seen="2026-04-09"),
        row(sku="b", seen="2026-03-01"),
        row(sku="c", seen="?"),
    ]
    path = write_parquet(tmp_path, rows)
    truth = {
        "plant_based_carton": {
            "column": "banned",
            "positive": ["yes"],
            "negative": ["no"],
            "known_at": "seen",
        }
    }
    write_mapping(path.parent, **MAPPING | {"truth": truth})
    report = shop.run(path)
    assert [t.known_at for t in shop.truths] == [datetime(2026, 4, 9, tzinfo=UTC)]
    assert report.bad == {"truth.plant_based_carton.known_at": 2}
