"""Slices: every row gets a value or the empty word, by borders that the contract names."""

from typing import Any

import numpy as np
import pytest

from moderation.errors import PolicyError
from moderation.features import FEATURE_NAMES
from moderation.gates.slicing import DERIVED, SliceRow, slices_of
from moderation.release import SliceRules, parse_release
from tests.gate_world import CONTRACT

RULES = SliceRules(seller_age_days=(3, 14), seller_uploads_30d=(3, 9), min_combination=10)


def _row(**changes: Any) -> SliceRow:
    fields: dict[str, Any] = {
        "title": "blue lamp",
        "description": "",
        "language": "en",
        "region": "US",
        "category": "home",
        "price": 5.0,
        "currency": "EUR",
        "behaviour_F": None,
        "attributes": {},
        "violates": False,
    }
    return SliceRow(**(fields | changes))


def _behaviour(**values: float) -> list[float]:
    return [values.get(name, float("nan")) for name in FEATURE_NAMES]


def test_sellers_are_banded_by_age_and_uploads() -> None:
    rows = [
        _row(behaviour_F=_behaviour(seller_age_days=age, submissions_30d=uploads))
        for age, uploads in ((0, 0), (2.9, 2), (3, 3), (13, 8), (14, 9), (400, 500))
    ]
    found = slices_of(rows, RULES)
    assert found["seller_age"].tolist() == ["new", "new", "young", "young", "old", "old"]
    assert found["seller_size"].tolist() == "small small medium medium large large".split()


def test_values_are_empty_when_unknown() -> None:
    bare = _row(language=None, region=None, category=None, price=None, behaviour_F=None)
    found = slices_of([bare, _row(behaviour_F=_behaviour())], RULES)
    assert set(found) == set(DERIVED)
    assert [found[name][0] for name in DERIVED] == [""] * len(DERIVED)
    assert (found["seller_age"][1], found["seller_size"][1]) == ("", "")


def test_prices_are_compared_within_category_and_currency() -> None:
    cheap = [_row(category="toys", price=float(price)) for price in range(1, 10)]
    dear = [_row(category="cars", price=1e4 + price) for price in range(9)]
    yen = [_row(category="toys", currency="JPY", price=900.0)]
    bands = slices_of([*cheap, *dear, *yen], RULES)["price_band"].tolist()
    assert bands == ["low"] * 3 + ["mid"] * 3 + ["high"] * 3 + ["low"] * 3 + ["mid"] * 3 + [
        "high"
    ] * 3 + [""]


def test_evasion_is_what_the_data_says() -> None:
    rows = [
        _row(violates=True, attributes={"evasion": "leet"}),
        _row(violates=True, attributes={"evasion": "none"}),
        _row(violates=True, title="p1st0l", attributes={"evasion": "none"}),
        _row(violates=False, attributes={"evasion": "leet"}),
    ]
    assert slices_of(rows, RULES)["evasive"].tolist() == ["evasive", "plain", "plain", ""]


def test_evasion_is_read_from_text_when_data_is_silent() -> None:
    rows = [
        _row(violates=True, title="p\u200bi\u200bs\u200btol"),
        _row(violates=True, title="p i s t o l"),
        _row(violates=True, title="pistol"),
        _row(violates=False, title="p\u200bi\u200bs\u200btol"),
    ]
    assert slices_of(rows, RULES)["evasive"].tolist() == ["evasive", "evasive", "plain", ""]


def test_attributes_are_slices_unless_they_identify() -> None:
    rows = [
        _row(attributes={"hard_negative": "spam" if number % 2 else "", "template": f"t{number}"})
        for number in range(60)
    ]
    found = slices_of(rows, RULES)
    assert "template" not in found
    assert found["hard_negative"].tolist() == ["", "spam"] * 30
    assert "constant" not in slices_of([_row(attributes={"constant": "x"})] * 3, RULES)


def test_attributes_never_replace_a_derived_slice() -> None:
    rows = [_row(attributes={"language": "xx"}), _row(attributes={"language": "yy"})]
    assert slices_of(rows, RULES)["language"].tolist() == ["en", "en"]


def test_row_is_read_from_a_record_of_a_snapshot() -> None:
    record = {
        "title": "lamp",
        "description": "",
        "language": None,
        "region": "DE",
        "category": None,
        "price": None,
        "currency": None,
        "behaviour": _behaviour(seller_age_days=20),
        "attributes": '{"evasion": "leet"}',
        "truth": [0, 1, -1],
    }
    found = slices_of([SliceRow.of(record)], RULES)
    assert (found["seller_age"][0], found["evasive"][0]) == ("old", "evasive")
    assert all(
        values.dtype.kind == "U" and isinstance(values, np.ndarray) for values in found.values()
    )


def test_contract_is_refused_when_borders_fall() -> None:
    raw = CONTRACT.read_bytes().replace(b"seller_age_days: [3, 14]", b"seller_age_days: [14, 3]")
    with pytest.raises(PolicyError, match="seller_age_days: the second border must lie above"):
        parse_release(raw, "release.yaml")
