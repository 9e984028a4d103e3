"""One row of a training table: a submission with what was known of it, and its columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moderation.listing import Submission

# Reviews come before audits, and both take days: of the newest uploads, mostly what was flagged is known, so that
# violations would seem many times as frequent as they are.
MATURITY: Final = timedelta(days=4)

EVASION: Final = "evasion"
"""Attribute by which the data says how a violation hides."""

NOT_EVASIVE: Final = ("", "none", "no", "false", "0")
"""Its values, in lower case, that say that it does not."""

ROW_FIELDS: Final = [
    ("submission_id", pa.string()),
    ("listing_id", pa.string()),
    ("seller_id", pa.string()),
    ("submitted_at", pa.timestamp("us", "UTC")),
    ("title", pa.string()),
    ("description", pa.string()),
    ("price", pa.float64()),
    ("currency", pa.string()),
    ("category", pa.string()),
    ("region", pa.string()),
    ("language", pa.string()),
    ("image_digests", pa.list_(pa.string())),
    ("image_hashes", pa.list_(pa.string())),
    ("behaviour", pa.list_(pa.float32())),
    ("served", pa.list_(pa.float32())),
    ("truth", pa.list_(pa.int8())),
    ("adjudicated", pa.list_(pa.int8())),
    ("weight", pa.float64()),
    ("attributes", pa.string()),
]


@dataclass(frozen=True)
class SnapshotRow:
    """One submission with what was known of it at the cut-off."""

    submission: Submission
    behaviour_F: npt.NDArray[np.float32] | None
    """NaN where one feature is missing; None where nothing is known of the seller."""

    truth: Mapping[str, bool]
    """Policy -> violates; a policy that is not there is unknown."""

    propensity: float = 1.0
    """Chance that the truth was looked for, given that the submission was kept."""

    image_hashes: Sequence[npt.NDArray[np.uint64]] = ()
    """PDQ hashes (4 words) of the images whose quality suffices for a match."""

    adjudicated: frozenset[str] = frozenset()
    """Policies whose truth a second person or a finished appeal confirmed."""

    served_F: npt.NDArray[np.float32] | None = None
    """Behaviour exactly as the decision about it used it, NaN where it had none; None where nothing was decided."""

    is_suspected: bool = False
    """Whether it was reviewed because something pointed at it; an audit is drawn at random."""


def is_immature(submission: Submission, cut_off: datetime) -> bool:
    """Return whether a submission is too new at `cut_off` for its truth to be mature."""
    return is_dated(submission) and submission.submitted_at > cut_off - MATURITY


def is_dated(submission: Submission) -> bool:
    """Return whether a submission has a time of its own: real data may know none, or declare its split instead."""
    values = submission.attributes
    return values.get("time") != "unknown" and "split" not in values


def to_record(row: SnapshotRow, policy_ids: Sequence[str]) -> dict[str, Any]:
    """Return the columns of a row before it has a role, and `links`, what ties it to others, as JSON."""
    submission, listing = row.submission, row.submission.listing
    record = listing.model_dump(
        include={f for f, _ in ROW_FIELDS} & set(type(listing).model_fields)
    )
    behaviour = row.behaviour_F
    return record | {
        "submission_id": submission.submission_id,
        "submitted_at": submission.submitted_at.astimezone(UTC),
        "image_digests": list(submission.image_digests),
        "image_hashes": [words.astype(">u8").tobytes().hex() for words in row.image_hashes],
        "behaviour": None if behaviour is None or np.isnan(behaviour).all() else behaviour.tolist(),
        "served": None if row.served_F is None else row.served_F.tolist(),
        "truth": [int(row.truth[p]) if p in row.truth else -1 for p in policy_ids],
        "adjudicated": [int(p in row.adjudicated) for p in policy_ids],
        "weight": 1.0 / (submission.inclusion_probability * row.propensity),
        "attributes": json.dumps(submission.attributes, sort_keys=True),
        "links": json.dumps(list(links_of(submission))),
    }


def links_of(submission: Submission) -> Iterator[tuple[str, str]]:
    """Yield what ties a submission to others: its seller first, then places and a named campaign."""
    listing = submission.listing
    if listing.seller_id:
        yield ("seller", listing.seller_id)
        if listing.device_fingerprint:
            yield ("device", listing.device_fingerprint)
        if listing.address_fingerprint:
            yield ("address", listing.address_fingerprint)
        if "campaign" in submission.attributes:
            yield ("campaign", submission.attributes["campaign"])
    elif "group" in submission.attributes:
        yield ("group", submission.attributes["group"])
    else:
        yield ("listing", listing.listing_id)


def to_words(text: str) -> npt.NDArray[np.uint64]:
    """Return the four words of an image hash in a row's column."""
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)
