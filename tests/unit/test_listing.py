"""Limits of listings, submissions and truths: each break is refused by the field's name."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moderation.errors import InvalidListing
from moderation.listing import (
    CURRENCIES,
    MAX_DESCRIPTION_CHARS,
    MAX_PRICE,
    MAX_TITLE_CHARS,
    GroundTruth,
    Listing,
    Submission,
    TruthSource,
    check_listing,
    is_mature,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def truth(**changes: Any) -> GroundTruth:
    fields = {
        "submission_id": "s1",
        "policy": "weapons",
        "violates": True,
        "source": "review",
        "reviewed_at": NOW,
        "known_at": NOW,
    }
    return GroundTruth.model_validate(fields | changes)


def submission(**changes: Any) -> Submission:
    fields = {"submission_id": "s1", "listing": {"listing_id": "l1"}, "submitted_at": NOW}
    return Submission.model_validate(fields | changes)


def test_listing_may_be_empty() -> None:
    listing = check_listing({"listing_id": "l1"})
    assert (listing.title, listing.description, listing.price) == ("", "", None)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("listing_id", "", "pattern"),
        ("listing_id", "../etc", "pattern"),
        ("listing_id", "a" * 129, "pattern"),
        ("listing_id", "line\nbreak", "pattern"),
        ("listing_id", None, "string"),
        ("seller_id", "a b", "pattern"),
        ("title", "x" * (MAX_TITLE_CHARS + 1), "at most 300"),
        ("title", "lone \ud800 surrogate", "lone surrogate"),
        ("title", "a\x00b", "NUL"),
        ("title", b"a\x00b", "NUL"),
        ("title", b"\xff\xfe", "unicode"),
        ("title", 7, "string"),
        ("title", None, "string"),
        ("description", "x" * (MAX_DESCRIPTION_CHARS + 1), "at most 20000"),
        ("description", "x" * 2**20, "at most 20000"),
        ("description", "\udfff", "lone surrogate"),
        ("price", float("nan"), "finite"),
        ("price", float("inf"), "finite"),
        ("price", -0.01, "finite number from 0"),
        ("price", 2 * MAX_PRICE, "finite number from 0"),
        ("price", "cheap", "number"),
        ("price", True, "must be a number, not true or false"),
        ("price", "12.5", "must be a number, not text"),
        ("price", [1], "number"),
        ("currency", "XXX", "ISO 4217"),
        ("currency", "eur", "ISO 4217"),
        ("currency", "", "ISO 4217"),
        ("currency", "x" * 10_000, "ISO 4217"),
        ("category", "x" * 65, "at most 64"),
        ("language", "English", "pattern"),
        ("language", "EN", "pattern"),
        ("truth", True, "not permitted"),
    ],
)
def test_listing_refuses_by_name_what_breaks_a_limit(field: str, value: Any, reason: str) -> None:
    with pytest.raises(InvalidListing, match=f"(?i){reason}") as caught:
        check_listing({"listing_id": "l1"} | {field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 300


def test_listing_refuses_a_missing_id() -> None:
    with pytest.raises(InvalidListing, match="required") as caught:
        check_listing({"title": "no id"})
    assert caught.value.field == "listing_id"


@pytest.mark.parametrize("currency", sorted(CURRENCIES))
def test_listing_takes_every_traded_currency(currency: str) -> None:
    assert check_listing({"listing_id": "l1", "currency": currency}).currency == currency


def test_listing_takes_text_at_its_limits() -> None:
    listing = check_listing(
        {
            "listing_id": "l1",
            "title": "é" * MAX_TITLE_CHARS,
            "description": "\U0001f600" * MAX_DESCRIPTION_CHARS,
            "price": MAX_PRICE,
        }
    )
    assert len(listing.description) == MAX_DESCRIPTION_CHARS


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=8)
    | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(fields=st.dictionaries(st.sampled_from([*Listing.model_fields, "extra"]), _VALUES))
def test_listing_is_valid_or_refused_for_any_fields(fields: dict[str, Any]) -> None:
    try:
        listing = check_listing({"listing_id": "l1"} | fields)
    except InvalidListing as error:
        refused = error
        assert refused.field
        assert refused.reason
        return
    text = listing.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert Listing.model_validate_json(text) == listing


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(st.characters(), max_size=300))
def test_listing_keeps_any_text_that_is_unicode(text: str) -> None:
    try:
        listing = check_listing({"listing_id": "l1", "title": text})
    except InvalidListing:
        assert "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text)
    else:
        assert listing.title == text


def test_listing_cannot_be_changed() -> None:
    listing = check_listing({"listing_id": "l1"})
    with pytest.raises(ValidationError, match="frozen"):
        listing.title = "other"  # type: ignore[misc]  # what is refused is the point


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("image_digests", ["a" * 64] * 9, "at most 8"),
        ("image_digests", ["A" * 64], "pattern"),
        ("image_digests", ["a" * 63], "pattern"),
        ("submitted_at", datetime(2026, 1, 1), "timezone"),
        ("inclusion_probability", 0.0, "greater than 0"),
        ("inclusion_probability", 1.01, "less than or equal"),
        ("inclusion_probability", float("nan"), "greater|less|finite"),
        ("attributes", {"split": 3}, "string"),
    ],
)
def test_submission_refuses_what_breaks_a_limit(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        submission(**{field: value})


def test_submission_takes_eight_images() -> None:
    assert len(submission(image_digests=["a" * 64] * 8).image_digests) == 8


@pytest.mark.parametrize("propensity", [0.0, -1.0, 1.5, float("nan")])
def test_truth_refuses_an_impossible_propensity(propensity: float) -> None:
    with pytest.raises(ValidationError, match="propensity"):
        truth(propensity=propensity)


def test_truth_refuses_an_unknown_source() -> None:
    assert truth().source is TruthSource.REVIEW
    with pytest.raises(ValidationError, match="source"):
        truth(source="rumour")


def test_truth_is_mature_when_it_had_arrived() -> None:
    known = truth(known_at=NOW)
    assert is_mature(known, NOW)
    assert not is_mature(known, NOW - timedelta(microseconds=1))


def test_a_refusal_does_not_repeat_a_long_name() -> None:
    with pytest.raises(InvalidListing) as caught:
        check_listing({"listing_id": "l1", "x" * 100_000: 1})
    assert len(str(caught.value)) < 200
