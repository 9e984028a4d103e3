"""Mapping files and tables: what loads, what is found, what is guessed, and each way in which it fails."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger.importing import open_source
from ledger.mapping import MappingError, load_mapping
from ledger.tables import TableError
from tests.shop import GROCERY, MARKET, ROOT, Shop, row, write_mapping, write_parquet


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"title": "t"}, "truth: Field required"),
        ({"title": "t", "truth": {}}, "truth: .*at least 1"),
        ({"title": "t", "truth": {"p": {"column": "c"}}}, r"truth\.p: .*negative is missing; list"),
        ({"truth": {"p": {"column": "c", "negative": [0]}}}, "at least one of title"),
        (
            {"title": "t", "truth": {"p": {"column": "c", "negative": [0]}}, "colour": "x"},
            "colour: Extra",
        ),
        ({"title": 3, "truth": {"p": {"column": "c", "negative": [0]}}}, "title"),
        (
            {
                "title": "t",
                "truth": {"p": {"column": "c", "negative": [0]}},
                "weight": "w",
                "inclusion_probability": "i",
            },
            "not both",
        ),
        (
            {
                "title": "t",
                "truth": {"p": {"column": "c", "negative": [0]}},
                "attributes": {"time": "c"},
            },
            "set by the import",
        ),
        (
            {
                "title": "t",
                "truth": {"p": {"column": "c", "negative": [0]}},
                "undated_at": "2026-01-01T00:00:00",
            },
            "undated_at: .*timezone",
        ),
    ],
)
def test_mapping_refuses_a_wrong_file(tmp_path: Path, fields: Any, reason: str) -> None:
    path = write_mapping(tmp_path, **fields)
    with pytest.raises(MappingError, match=reason) as caught:
        load_mapping(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("text", ["a: [", "- a", "", "\x00"])
def test_mapping_refuses_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(MappingError, match=r"mapping\.yaml"):
        load_mapping(path)


def test_mapping_names_columns_that_the_table_lacks(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row()])
    write_mapping(path.parent, title="heading", truth={"p": {"column": "banned", "negative": [0]}})
    with pytest.raises(MappingError, match=r"no column heading; it has sku, "):
        open_source(path, ("p",))


def test_mapping_given_by_the_caller_wins(shop: Shop, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [row()])
    (tmp_path / "own").mkdir()
    truth = {"plant_based_carton": {"column": "banned", "positive": ["yes"], "negative": ["no"]}}
    own = write_mapping(tmp_path / "own", title="secret", truth=truth)
    report = shop.run(path, mapping=own)
    assert report.origin == str(own)
    assert [s.listing.title for s in shop.submissions] == ["never read"]
    assert [s.listing.listing_id for s in shop.submissions] == ["row-1"]


def test_mapping_is_a_shipped_one_when_its_columns_fit(tmp_path: Path) -> None:
    shipped = load_mapping(ROOT / "examples" / "grocery_store" / "mapping.yaml")
    cells = dict.fromkeys(shipped.mapping.columns(), "x") | {"label": "1"}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([cells]), path)
    found = open_source(path, MARKET.ids).found
    assert found == shipped
    assert found.policies == ROOT / "examples" / "grocery_store" / "policies.yaml"


def test_mapping_shipped_reads_no_column_that_tells_the_answer() -> None:
    mapping = load_mapping(ROOT / "examples" / "grocery_store" / "mapping.yaml").mapping
    assert not {"category", "subcategory", "brand", "fine_class"} & set(mapping.columns())
    assert set(mapping.truth) == set(GROCERY.ids)
    assert mapping.title == ("evasive_title", "title")


def test_mapping_is_guessed_from_conventional_names(tmp_path: Path) -> None:
    cells = {"ID": 7, "Name": "x", "Price": 2.0, "label": 1, "category": "c", "split": "test"}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([cells]), path)
    found = open_source(path, ("weapons",), examples=tmp_path).found
    mapping = found.mapping
    assert (mapping.listing_id, mapping.title, mapping.price) == (("ID",), ("Name",), ("Price",))
    assert mapping.category == ()
    assert mapping.truth["weapons"].column == "label"
    kept = tmp_path / "kept.yaml"
    kept.write_text(found.to_yaml())
    assert load_mapping(kept).mapping == mapping


def test_mapping_guess_fails_when_truth_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([{"title": "x", "label": 1}]), path)
    with pytest.raises(MappingError, match=r"(?s)no column tells the truth about.*title: title"):
        open_source(path, MARKET.ids)


def test_mapping_guess_fails_when_nothing_can_be_judged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist([{"label": 1}]), path)
    with pytest.raises(MappingError, match="no column holds a title"):
        open_source(path, ("weapons",))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.xlsx", b"x", r"ends in \.parquet or \.csv"),
        ("t.parquet", b"PAR1 no", "not a readable parquet"),
        ("t.csv", b"", "needs named columns"),
        ("t.csv", b"a,a\n1,2\n", r"twice there: \['a'\]"),
    ],
)
def test_table_refuses_what_it_cannot_read(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=reason):
        open_source(tmp_path / name, ("weapons",))


def test_table_refuses_a_folder_without_exactly_one(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no \*\.parquet or \*\.csv"):
        open_source(tmp_path, ("weapons",))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("title,label\nx,1\n")
    with pytest.raises(TableError, match=r"several tables \(a\.csv, b\.csv\)"):
        open_source(tmp_path, ("weapons",))
    truth = {"weapons": {"column": "label", "negative": [0]}}
    write_mapping(tmp_path, table="b.csv", title="title", truth=truth)
    assert open_source(tmp_path, ("weapons",)).table.path.name == "b.csv"
    with pytest.raises(TableError, match="no such file or folder"):
        open_source(tmp_path / "none", ("weapons",))
