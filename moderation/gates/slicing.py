"""Slices of a frozen set: the named subsets that gates compare, the same for every set and for recorded traffic.

N rows, F behaviour features.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.features import FEATURE_NAMES
from moderation.release import SliceRules
from moderation.signals import as_words
from moderation.snapshot_rows import EVASION, NOT_EVASIVE
from moderation.text import SIGNS, ngram_texts

Words = npt.NDArray[np.str_]
Flags = npt.NDArray[np.bool_]

DERIVED: Final = (
    "language",
    "region",
    "category",
    "seller_age",
    "seller_size",
    "price_band",
    "evasive",
)
"""Slices that every set has; the empty word where a row's value is unknown."""

_AGE: Final = FEATURE_NAMES.index("seller_age_days")
_UPLOADS: Final = FEATURE_NAMES.index("submissions_30d")
_AGES: Final = ("new", "young", "old")
_SIZES: Final = ("small", "medium", "large")
_BANDS: Final = ("low", "mid", "high")

# Fewer prices than this have no terciles worth the name.
_MIN_PRICES: Final = 6

# An attribute of more values is an identifier, not a slice.
_MAX_VALUES: Final = 40

_OBFUSCATIONS: Final = tuple(
    SIGNS.index(name)
    for name in ("zero_width", "combining", "confusables", "styled", "leet", "separators")
)


@dataclass(frozen=True)
class SliceRow:
    """What a row is sliced by."""

    title: str
    description: str
    language: str | None
    region: str | None
    category: str | None
    price: float | None
    currency: str | None
    behaviour_F: Sequence[float] | npt.NDArray[np.float32] | None
    attributes: Mapping[str, str]
    violates: bool
    """Whether it violates any policy as far as is known."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "SliceRow":
        """Return the slice row of a snapshot's record."""
        names = ("title", "description", "language", "region", "category", "price", "currency")
        return cls(
            **{name: record[name] for name in names},
            behaviour_F=record["behaviour"],
            attributes=json.loads(record["attributes"]),
            violates=1 in record["truth"],
        )


@dataclass(frozen=True)
class Part:
    """Rows of a set that a gate judges apart."""

    name: str
    """For people; empty for all rows."""

    rows_N: Flags
    is_unknown: bool = False
    """Whether they are those whose value nobody gave."""

    def named(self, policy: str) -> str:
        """Return what is judged, for people."""
        return f"{policy} · {self.name}" if self.name else policy


def parts_of_slices(
    slices: Mapping[str, Words], names: Sequence[str], num_rows: int
) -> Iterator[Part]:
    """Yield all rows, or those of each value of some slices, and of each slice those whose value is unknown.

    A seller need not say what a listing is sliced by, so that whoever says nothing is judged like a value. A slice that
    is not there, or that knows no value, gives one empty part, so that it is seen.
    """
    if not names:
        yield Part("", np.ones(num_rows, bool))
    for name in names:
        values_N = slices.get(name, np.full(num_rows, ""))
        values = sorted(set(values_N.tolist()) - {""})
        if not values:
            yield Part(f"{name}=?", np.zeros(num_rows, bool))
            continue
        for value in values:
            yield Part(f"{name}={value}", values_N == value)
        if (values_N == "").any():
            yield Part(f"{name} unknown", values_N == "", is_unknown=True)


def values_lacking(
    slices: Mapping[str, Words], deployed: Mapping[str, Words], names: Sequence[str], fewest: int
) -> Iterator[tuple[str, str, int]]:
    """Yield slice, value and deployed rows of each value that a set lacks and deployed traffic has.

    A set that has no listing of a value says nothing of it, which is no reason to pass.

    Args:
        slices: of the set.
        deployed: of the rows that stand for deployed traffic.
        names: of the slices that a gate judges.
        fewest: rows of deployed traffic that make a value worth asking for.
    """
    for name in names:
        if name not in slices or name not in deployed:
            continue
        values, counts = np.unique(deployed[name], return_counts=True)
        known = {*slices[name].tolist(), ""}
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value not in known and count >= fewest:
                yield name, value, count


def slices_of(rows: Sequence[SliceRow], rules: SliceRules) -> dict[str, Words]:
    """Return slice name -> value of each row, the empty word where unknown.

    Beside those of `DERIVED`, attributes that the data brings are slices if they cut the rows into few subsets.

    Args:
        rows: of one set; prices are compared within it.
        rules: where the seller's age and size are cut.
    """
    ages = [_banded(row, _AGE, rules.seller_age_days, _AGES) for row in rows]
    sizes = [_banded(row, _UPLOADS, rules.seller_uploads_30d, _SIZES) for row in rows]
    found = {
        "language": [row.language or "" for row in rows],
        "region": [row.region or "" for row in rows],
        "category": [row.category or "" for row in rows],
        "seller_age": ages,
        "seller_size": sizes,
        "price_band": _price_bands(rows),
        "evasive": [_evasion(row) if row.violates else "" for row in rows],
    }
    found |= dict(_attributes(rows))
    return {name: as_words(values) for name, values in found.items()}


def _banded(row: SliceRow, feature: int, borders: tuple[float, float], names: Sequence[str]) -> str:
    if row.behaviour_F is None or not math.isfinite(row.behaviour_F[feature]):
        return ""
    return names[int(np.searchsorted(borders, row.behaviour_F[feature], side="right"))]


def _price_bands(rows: Sequence[SliceRow]) -> list[str]:
    """Return the tercile of each price among those of its category and currency."""
    priced: defaultdict[tuple[str | None, str | None], list[tuple[float, int]]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.price is not None:
            priced[row.category, row.currency].append((row.price, number))
    bands = [""] * len(rows)
    for pairs in priced.values():
        if len(pairs) < _MIN_PRICES:
            continue
        borders = np.quantile([price for price, _ in pairs], [1 / 3, 2 / 3])
        for price, number in pairs:
            bands[number] = _BANDS[int(np.searchsorted(borders, price, side="left"))]
    return bands


def is_evasive(attributes: Mapping[str, str], title: str, description: str) -> bool:
    """Return whether a violation hides: by what the data says of it, else by what its text shows."""
    if EVASION in attributes:
        return attributes[EVASION].lower() not in NOT_EVASIVE
    signs = ngram_texts(title, description).signs
    return any(signs[sign] > 0 for sign in _OBFUSCATIONS)


def _evasion(row: SliceRow) -> str:
    return "evasive" if is_evasive(row.attributes, row.title, row.description) else "plain"


def _attributes(rows: Sequence[SliceRow]) -> Iterator[tuple[str, list[str]]]:
    for name in sorted({name for row in rows for name in row.attributes} - set(DERIVED)):
        values = [row.attributes.get(name, "") for row in rows]
        if 1 < len(set(values)) <= _MAX_VALUES:
            yield name, values
