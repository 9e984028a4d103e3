"""One row of a foreign table becomes a submission with its images and truths, or a reason why it cannot."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from ledger.mapping import ColumnMapping, ImageColumns, TruthColumn, ValueColumn
from ledger.tables import EXTRA
from moderation.errors import InvalidListing
from moderation.image import decode, strip
from moderation.listing import (
    MAX_IMAGES,
    GroundTruth,
    Submission,
    TruthSource,
    check_listing,
)

_BAD_IN_IDS: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_ID_CHARS: Final = 80
_FALSE: Final = frozenset({"0", "no", ""})


@dataclass
class ImportedRow:
    """What became of one row."""

    submission: Submission
    truths: list[GroundTruth]
    images: list[bytes]
    """Without metadata, in the order of the submission's digests."""

    missing: list[str] = field(default_factory=list)
    """Mapped fields that hold nothing in this row."""

    unclear: dict[str, str] = field(default_factory=dict)
    """Truth that stays unknown because its value means neither yes nor no, with that value."""


def read_row(
    cells: Mapping[str, Any], number: int, mapping: ColumnMapping, folder: Path
) -> ImportedRow:
    """Return the submission, the truths and the images of one row.

    Args:
        cells: values by column.
        number: the row's place in its table, from 1.
        mapping: what each column means.
        folder: where the table lies; image files are looked for below it.

    Raises:
        InvalidListing: naming the field that is wrong and why.
    """
    if EXTRA in cells:
        raise InvalidListing("row", f"has {len(cells[EXTRA])} cells more than there are columns")
    values = {name: _first(cells, columns) for name, columns in mapping.fields().items()}
    missing = [name for name, value in values.items() if value is None]
    instant = _read_instant(values.pop("submitted_at", None), mapping)
    images = list(_read_images(cells, mapping.images, folder)) if mapping.images else []
    if mapping.images and not images:
        missing.append("images")
    listing_id = _read_id(_first(cells, mapping.listing_id), "listing_id") or f"row-{number}"
    listing = check_listing({"listing_id": listing_id} | _read_fields(values))
    submission = _submission(
        {
            "submission_id": f"{listing_id}:{hashlib.sha256(instant.isoformat().encode()).hexdigest()[:8]}",
            "listing": listing,
            "image_digests": tuple(hashlib.sha256(image).hexdigest() for image in images),
            "submitted_at": instant,
            "inclusion_probability": _read_inclusion(cells, mapping),
            "attributes": _read_attributes(cells, mapping),
        }
    )
    truths = [
        truth
        for policy, column in mapping.truth.items()
        if (truth := _read_truth(cells, policy, column, submission)) is not None
    ]
    missing += [f"truth.{policy}" for policy in mapping.truth if policy not in _policies(truths)]
    return ImportedRow(submission, truths, images, missing, _unclear(cells, mapping))


def canonical(value: object) -> str:
    """Return a cell's value as text that compares equal however a table spells it.

    >>> [canonical(v) for v in (True, 1, 1.0, "1.0", " Yes ")]
    ['1', '1', '1', '1', 'yes']
    """
    text = str(value).strip().casefold()
    if text in ("true", "false"):
        return "1" if text == "true" else "0"
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def _policies(truths: list[GroundTruth]) -> set[str]:
    return {truth.policy for truth in truths}


def _is_empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _first(cells: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    """Return the first value that is there, or None."""
    return next((cells[name] for name in columns if not _is_empty(cells[name])), None)


def _submission(fields: dict[str, Any]) -> Submission:
    try:
        return Submission.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidListing(".".join(map(str, first["loc"])), first["msg"]) from error


def _read_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a listing as its check expects them; what is missing is left out."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name == "price":
            fields[name] = _read_number(value, name)
        elif name == "seller_id":
            fields[name] = _read_id(value, name)
        elif name == "currency":
            fields[name] = str(value).strip().upper()
        elif name == "language":
            fields[name] = re.split("[-_]", str(value).strip().casefold())[0]
        else:
            fields[name] = str(value)
    return fields


def _read_number(value: Any, name: str) -> float:
    if isinstance(value, bool):
        raise InvalidListing(name, "must be a number, not true or false")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidListing(name, f"{str(value)[:20]!r} is not a number; write 1299.50") from error


def _read_id(value: Any, name: str) -> str | None:
    """Return a value as an identifier; characters that none may hold are replaced, and a digest keeps it unique."""
    if value is None:
        return None
    text = str(value).strip()
    plain = _BAD_IN_IDS.sub("-", text).strip("-._")[:_MAX_ID_CHARS]
    if plain == text:
        return text
    try:
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
    except UnicodeEncodeError as error:
        raise InvalidListing(name, "is not valid Unicode (a lone surrogate); send UTF-8") from error
    return f"{plain or 'id'}-{digest}"


def _read_instant(value: Any, mapping: ColumnMapping) -> datetime:
    if not mapping.submitted_at:
        return mapping.undated_at.astimezone(UTC)
    if value is None:
        raise InvalidListing("submitted_at", "is missing; where no row has one, leave it unmapped")
    return _to_instant(value, "submitted_at")


def _to_instant(value: Any, name: str) -> datetime:
    """Return a date, a time or its ISO text in UTC; one without a zone is taken as UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError as error:
            raise InvalidListing(name, f"{value[:40]!r} is not a time; write ISO 8601") from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise InvalidListing(name, f"{str(value)[:40]!r} is not a time; write ISO 8601")
    instant: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
    return instant.astimezone(UTC)


def _read_inclusion(cells: Mapping[str, Any], mapping: ColumnMapping) -> float:
    name = mapping.inclusion_probability or mapping.weight
    if name is None:
        return 1.0
    field_name = "inclusion_probability" if mapping.inclusion_probability else "weight"
    if _is_empty(cells[name]):
        raise InvalidListing(field_name, "is missing")
    number = _read_number(cells[name], field_name)
    if mapping.weight:
        if not (math.isfinite(number) and number >= 1):
            raise InvalidListing("weight", f"{number} is not a finite number of at least 1")
        return 1 / number
    return number


def _read_attributes(cells: Mapping[str, Any], mapping: ColumnMapping) -> dict[str, str]:
    found = {} if mapping.submitted_at else {"time": "unknown"}
    if mapping.split:
        split = _renamed(cells, mapping.split)
        if split is None:
            raise InvalidListing("split", "is missing")
        found["split"] = split
    for name, column in mapping.attributes.items():
        value = _renamed(cells, column)
        if value is not None and canonical(value) not in _FALSE:
            found[name] = value
    return found


def _renamed(cells: Mapping[str, Any], column: ValueColumn) -> str | None:
    value = cells[column.column]
    if _is_empty(value):
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return column.values.get(text, text)


def _read_truth(
    cells: Mapping[str, Any], policy: str, column: TruthColumn, submission: Submission
) -> GroundTruth | None:
    value = cells[column.column]
    if _is_empty(value):
        return None
    found = canonical(value)
    violates = found in map(canonical, column.positive)
    if not violates and found not in map(canonical, column.negative):
        if column.others == "unknown":
            return None
        reason = f"{_shown(value)} is neither a positive nor a negative value of the mapping"
        raise InvalidListing(f"truth.{policy}", reason)
    known_at = submission.submitted_at
    if column.known_at is not None and not _is_empty(cells[column.known_at]):
        known_at = _to_instant(cells[column.known_at], f"truth.{policy}.known_at")
    if known_at < submission.submitted_at:
        raise InvalidListing(f"truth.{policy}.known_at", "is before the submission")
    return GroundTruth(
        submission_id=submission.submission_id,
        policy=policy,
        violates=violates,
        source=TruthSource.IMPORT,
        reviewed_at=known_at,
        known_at=known_at,
    )


def _unclear(cells: Mapping[str, Any], mapping: ColumnMapping) -> dict[str, str]:
    """Return the truth values that a lenient mapping does not understand, by field."""
    return {
        f"truth.{policy}": f"{_shown(value)} is neither a positive nor a negative value; truth is unknown"
        for policy, column in mapping.truth.items()
        if not _is_empty(value := cells[column.column])
        and canonical(value) not in map(canonical, (*column.positive, *column.negative))
    }


def _shown(value: Any) -> str:
    return repr(str(value)[:40])


def _read_images(cells: Mapping[str, Any], images: ImageColumns, folder: Path) -> Iterator[bytes]:
    """Yield the images of one row, each decoded once to see that it can be, and without metadata."""
    found = [item for name in images.columns for item in _items(cells[name], images.separator)]
    if len(found) > MAX_IMAGES:
        raise InvalidListing("images", f"are {len(found)}; at most {MAX_IMAGES} are allowed")
    for index, item in enumerate(found):
        name = f"images[{index}]"
        data = _read_file(item, folder / images.folder, name) if isinstance(item, str) else item
        decode(data, field=name)
        yield strip(data, field=name)


def _items(value: Any, separator: str | None) -> Iterator[bytes | str]:
    """Yield the images in one cell: bytes, a file name, a {bytes, path} pair, or a list of those."""
    if isinstance(value, list):
        for item in value:
            yield from _items(item, separator)
    elif isinstance(value, dict):
        yield from _items(value.get("bytes") or value.get("path"), separator)
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield from filter(
            None, (n.strip() for n in (value.split(separator) if separator else [value]))
        )
    elif not _is_empty(value):
        kind = type(value).__name__
        raise InvalidListing("images", f"hold a {kind}; bytes or file names are expected")


def _read_file(name: str, folder: Path, field_name: str) -> bytes:
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        is_inside = path.is_relative_to(root)
        if is_inside and path.is_file():
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidListing(field_name, f"{name[:80]!r} cannot be read") from error
    reason = "is not in the image folder" if is_inside else "lies outside the image folder"
    raise InvalidListing(field_name, f"{name[:80]!r} {reason}")
