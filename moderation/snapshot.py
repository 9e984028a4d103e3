"""A frozen training table: rows with truth, weights and roles, in Parquet, with a digest of its content.

`SnapshotWriter` takes rows in time order as a stream; `finish` gives them groups, roles and folds, drops copies and
writes the table. Rows whose truth is unknown under every policy are not kept: unreviewed is unknown, not negative.
Images stay in the content store; the table names them by digest.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from moderation.duplicates import Fingerprints, copies_of
from moderation.errors import InvalidSnapshot
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission
from moderation.splitting import (
    Mode,
    Split,
    group_rows,
    hashed_test_rows,
    mark_seen,
    places_by_time,
    split_as_declared,
    split_by_time,
)

_BATCH_ROWS: Final = 1_024

# Reviews come before audits, and both take days: of the newest uploads, mostly what was flagged is known, so that
# violations would seem many times as frequent as they are.
MATURITY: Final = timedelta(days=4)
_SEEN_KEYS: Final = ("seller", "template", "asset", "campaign")

_ROW_FIELDS: Final = [
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
    ("behaviour", pa.list_(pa.float32())),
    ("truth", pa.list_(pa.int8())),
    ("weight", pa.float64()),
    ("attributes", pa.string()),
]
_STAGED: Final = pa.schema([*_ROW_FIELDS, ("links", pa.string())])
SCHEMA: Final = pa.schema(
    [*_ROW_FIELDS, ("group", pa.int64()), ("role", pa.string()), ("fold", pa.int8())]
)


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


class SnapshotWriter:
    """Takes rows in time order and writes one snapshot; memory holds no text and no image bytes."""

    def __init__(self, folder: Path, policy_ids: Sequence[str], cut_off: datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._policy_ids, self._cut_off = folder, tuple(policy_ids), cut_off
        self._staging = folder / "staged.parquet"
        self._sink = pq.ParquetWriter(self._staging, _STAGED)
        self._pending: list[dict[str, Any]] = []
        self._hash_rows: list[int] = []
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._num_rows = 0
        self._num_unknown = 0
        self._num_immature = 0

    def add(self, row: SnapshotRow) -> None:
        """Take one row; one without any truth, or too new for its truth to be mature, is counted and left out."""
        strangers = set(row.truth) - set(self._policy_ids)
        if strangers:
            raise InvalidSnapshot(f"truth about policies that the policy file lacks: {strangers}")
        if not row.truth:
            self._num_unknown += 1
            return
        if self._is_immature(row.submission):
            self._num_immature += 1
            return
        for image_hash in row.image_hashes:
            self._hash_rows.append(self._num_rows)
            self._hashes.append(image_hash)
        self._pending.append(_to_record(row, self._policy_ids))
        self._num_rows += 1
        if len(self._pending) == _BATCH_ROWS:
            self._flush()

    def finish(self) -> "Snapshot":
        """Return the snapshot with roles, folds and groups, copies across the split dropped.

        Raises:
            InvalidSnapshot: if no row has a known truth.
        """
        self._flush()
        self._sink.close()
        if not self._num_rows:
            raise InvalidSnapshot(
                "no row has a known truth at the cut-off; import or review some "
                f"({self._num_unknown} rows are unreviewed, {self._num_immature} newer than {MATURITY.days} days)"
            )
        light = pq.read_table(
            self._staging, columns=["submitted_at", "truth", "weight", "attributes", "links"]
        )
        attributes = [json.loads(text) for text in light["attributes"].to_pylist()]
        group_N = group_rows(_read_links(light))
        planned = _Planned.of(light, attributes, group_N)
        copies_N = planned.copies(self._fingerprints())
        split = planned.split(copies_N)
        mode = planned.mode
        keep_N = split.keep_N
        seen_role_N = np.where(keep_N, split.role_N, "left out")
        extra = mark_seen(_seen_values(attributes, light), seen_role_N, _SEEN_KEYS)
        digest = self._write(split, group_N, keep_N, extra)
        counts = {
            "mode": mode,
            "unknown_truth": self._num_unknown,
            "immature": self._num_immature,
            "purged": int((~keep_N & ~copies_N).sum()),
            "copies": int(copies_N.sum()),
        }
        self._write_manifest(digest, counts)
        self._staging.unlink()
        return Snapshot.open(self._folder)

    def _is_immature(self, submission: Submission) -> bool:
        dated = (
            submission.attributes.get("time") != "unknown" and "split" not in submission.attributes
        )
        return dated and submission.submitted_at > self._cut_off - MATURITY

    def _flush(self) -> None:
        if self._pending:
            self._sink.write_table(pa.Table.from_pylist(self._pending, schema=_STAGED))
            self._pending = []

    def _fingerprints(self) -> Fingerprints:
        staged = pq.read_table(self._staging, columns=["title", "description", "image_digests"])
        texts = zip(staged["title"].to_pylist(), staged["description"].to_pylist(), strict=True)
        return Fingerprints(
            image_row_I=np.array(self._hash_rows, np.int64),
            image_hash_I4=np.array(self._hashes, np.uint64).reshape(-1, 4),
            num_images_N=np.array([len(d) for d in staged["image_digests"].to_pylist()]),
            text_N=[" ".join(f"{title} {text}".casefold().split()) for title, text in texts],
        )

    def _write(
        self,
        split: Split,
        group_N: npt.NDArray[np.int64],
        keep_N: npt.NDArray[np.bool_],
        extra: list[dict[str, str]],
    ) -> str:
        digest, begin = hashlib.sha256(), 0
        with pq.ParquetWriter(self._folder / "rows.parquet", SCHEMA) as sink:
            for batch in pq.ParquetFile(self._staging).iter_batches(_BATCH_ROWS):
                records = batch.to_pylist()
                kept = []
                for row, record in enumerate(records, start=begin):
                    if keep_N[row]:
                        kept.append(_finished(record, row, split, group_N, extra[row]))
                begin += len(records)
                for record in kept:
                    digest.update(json.dumps(record, default=str, sort_keys=True).encode())
                sink.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
        return digest.hexdigest()

    def _write_manifest(self, digest: str, counts: dict[str, Any]) -> None:
        manifest = {
            "digest": digest,
            "policies": self._policy_ids,
            "features": FEATURE_NAMES,
            "cut_off": self._cut_off.astimezone(UTC).isoformat(),
            **counts,
        }
        (self._folder / "snapshot.json").write_text(json.dumps(manifest, indent=1))


@dataclass(frozen=True)
class Snapshot:
    """A written snapshot; columns are read on demand."""

    folder: Path
    digest: str
    policy_ids: tuple[str, ...]
    mode: Mode
    cut_off: datetime
    counts: Mapping[str, int]
    """How many rows were left out, by reason: `unknown_truth`, `immature`, `purged`, `copies`."""

    @classmethod
    def open(cls, folder: Path) -> "Snapshot":
        """Return the snapshot in `folder`.

        Raises:
            InvalidSnapshot: if the folder holds none, or one of other features.
        """
        try:
            manifest = json.loads((folder / "snapshot.json").read_text())
        except (OSError, ValueError) as error:
            raise InvalidSnapshot(f"{folder} holds no finished snapshot: {error}") from error
        if tuple(manifest["features"]) != FEATURE_NAMES:
            raise InvalidSnapshot(
                f"{folder} was built for other behaviour features; build it again"
            )
        return cls(
            folder=folder,
            digest=manifest["digest"],
            policy_ids=tuple(manifest["policies"]),
            mode=manifest["mode"],
            cut_off=datetime.fromisoformat(manifest["cut_off"]),
            counts={k: manifest[k] for k in ("unknown_truth", "immature", "purged", "copies")},
        )

    def batches(
        self, columns: Sequence[str] | None = None, size: int = _BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order as record batches of at most `size` rows."""
        table = pq.ParquetFile(self.folder / "rows.parquet")
        yield from table.iter_batches(size, columns=list(columns) if columns else None)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one scalar column as an array of N."""
        table = pq.read_table(self.folder / "rows.parquet", columns=[name])
        return cast(npt.NDArray[Any], table[name].to_numpy())

    @property
    def num_rows(self) -> int:
        """N, the number of rows."""
        return int(pq.ParquetFile(self.folder / "rows.parquet").metadata.num_rows)

    @property
    def role(self) -> npt.NDArray[np.str_]:
        """role_N: train, tune, meta, solve or test."""
        return self.column("role").astype(str)

    @property
    def fold(self) -> npt.NDArray[np.int8]:
        """fold_N: out-of-fold block of a train row; -1 otherwise."""
        return self.column("fold").astype(np.int8)

    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """weight_N: the inverse of the inclusion probability."""
        return self.column("weight").astype(np.float64)

    @property
    def group(self) -> npt.NDArray[np.int64]:
        """group_N: seller and campaign component."""
        return self.column("group").astype(np.int64)

    def truth_NP(self) -> npt.NDArray[np.int8]:
        """Return 1 violates, 0 does not, -1 unknown; columns in the order of `policy_ids`."""
        return np.array(self._lists("truth"), np.int8).reshape(-1, len(self.policy_ids))

    def behaviour_NF(self) -> npt.NDArray[np.float32]:
        """Return behaviour features, NaN where missing; a row of NaN where nothing is known."""
        absent = [np.nan] * len(FEATURE_NAMES)
        rows = [absent if row is None else row for row in self._lists("behaviour")]
        return np.array(rows, np.float32).reshape(-1, len(FEATURE_NAMES))

    def attributes(self) -> list[dict[str, str]]:
        """Return the slice attributes of each row."""
        return [json.loads(text) for text in self._lists("attributes")]

    def _lists(self, name: str) -> list[Any]:
        table = pq.read_table(self.folder / "rows.parquet", columns=[name])
        return cast(list[Any], table[name].to_pylist())


def _to_record(row: SnapshotRow, policy_ids: Sequence[str]) -> dict[str, Any]:
    submission, listing = row.submission, row.submission.listing
    record = listing.model_dump(
        include={f for f, _ in _ROW_FIELDS} & set(type(listing).model_fields)
    )
    behaviour = row.behaviour_F
    return record | {
        "submission_id": submission.submission_id,
        "submitted_at": submission.submitted_at,
        "image_digests": list(submission.image_digests),
        "behaviour": None if behaviour is None or np.isnan(behaviour).all() else behaviour.tolist(),
        "truth": [int(row.truth[p]) if p in row.truth else -1 for p in policy_ids],
        "weight": 1.0 / (submission.inclusion_probability * row.propensity),
        "attributes": json.dumps(submission.attributes, sort_keys=True),
        "links": json.dumps(list(_links(submission))),
    }


def _links(submission: Submission) -> Iterator[tuple[str, str]]:
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


@dataclass(frozen=True)
class _Planned:
    """The split that the data allows: its own, by time, or by a hash of the group."""

    mode: Mode
    place_N: npt.NDArray[np.int64]
    """Order of the roles that rows fall into; the last is the test."""

    light: pa.Table
    group_N: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, light: pa.Table, attributes: list[dict[str, str]], group_N: npt.NDArray[np.int64]
    ) -> "_Planned":
        if all("split" in row for row in attributes):
            is_test_N = np.array([row["split"] == "test" for row in attributes], bool)
            return cls("declared", is_test_N.astype(np.int64), light, group_N)
        if any(row.get("time") == "unknown" for row in attributes):
            return cls("declared", hashed_test_rows(group_N).astype(np.int64), light, group_N)
        return cls("time", places_by_time(_time(light)), light, group_N)

    def copies(self, prints: Fingerprints) -> npt.NDArray[np.bool_]:
        """Return the rows that a row of any later role is a copy of."""
        copies_N = np.zeros(len(self.place_N), bool)
        for later in range(1, int(self.place_N.max(initial=0)) + 1):
            copies_N |= copies_of(prints, self.place_N < later, self.place_N == later)
        return copies_N

    def split(self, copies_N: npt.NDArray[np.bool_]) -> Split:
        weight_N = self.light["weight"].to_numpy()
        truth = [tuple(row) for row in self.light["truth"].to_pylist()]
        if self.mode == "time":
            time_N = _time(self.light)
            return split_by_time(time_N, self.group_N, weight_N, truth, copy_N=copies_N)
        is_test_N = self.place_N.astype(bool)
        return split_as_declared(is_test_N, self.group_N, weight_N, truth, copy_N=copies_N)


def _time(light: pa.Table) -> npt.NDArray[np.int64]:
    return cast(npt.NDArray[np.int64], light["submitted_at"].cast(pa.int64()).to_numpy())


def _seen_values(attributes: Iterable[dict[str, str]], light: pa.Table) -> list[dict[str, str]]:
    """Return each row's attributes with its seller, whose link comes first."""
    return [
        values | {kind: value for kind, value in pairs[:1] if kind == "seller"}
        for values, pairs in zip(attributes, _read_links(light), strict=True)
    ]


def _read_links(light: pa.Table) -> list[list[tuple[str, str]]]:
    texts = light["links"].to_pylist()
    return [[(kind, value) for kind, value in json.loads(text)] for text in texts]


def _finished(
    record: dict[str, Any],
    row: int,
    split: Split,
    group_N: npt.NDArray[np.int64],
    extra: dict[str, str],
) -> dict[str, Any]:
    """Return the staged record with its role; `links` is dropped, its work is done."""
    record.pop("links")
    record["attributes"] = json.dumps(json.loads(record["attributes"]) | extra, sort_keys=True)
    return record | {
        "weight": float(split.weight_N[row]),
        "group": int(group_N[row]),
        "role": str(split.role_N[row]),
        "fold": int(split.fold_N[row]),
    }


def missing_evidence(
    snapshot: Snapshot, *, min_train: int, min_test: int, min_negatives: float
) -> list[str]:
    """Return what a snapshot lacks to train and judge every policy; empty when it suffices.

    Args:
        snapshot: the table to check.
        min_train: positives per policy among the rows that train.
        min_test: positives per policy among the test rows.
        min_negatives: weighted negatives per policy over all rows.
    """
    truth_NP, role_N, weight_N = snapshot.truth_NP(), snapshot.role, snapshot.weight
    problems = []
    for column, policy in enumerate(snapshot.policy_ids):
        truth_N = truth_NP[:, column]
        for role, least in (("train", min_train), ("test", min_test)):
            num = int(((truth_N == 1) & (role_N == role)).sum())
            if num < least:
                problems.append(f"{policy}: {num} positives in {role}, {least} are needed")
        negatives = float(weight_N[truth_N == 0].sum())
        if negatives < min_negatives:
            problems.append(
                f"{policy}: {negatives:.0f} weighted negatives, {min_negatives:.0f} are needed"
            )
    return problems
