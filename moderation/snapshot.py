"""A frozen training table: rows with truth, weights and roles, in Parquet, with a digest of its content.

`SnapshotWriter` takes rows in time order as a stream; `finish` gives them groups, roles and folds, drops copies and
what is barred, and writes the table. Rows whose truth is unknown under every policy are not kept: unreviewed is
unknown, not negative. Images stay in the content store; the table names them by digest.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from moderation.duplicates import Fingerprints, copies_of, plain_text
from moderation.errors import InvalidSnapshot
from moderation.features import FEATURE_NAMES
from moderation.snapshot_rows import (
    MATURITY,
    ROW_FIELDS,
    SnapshotRow,
    is_immature,
    to_record,
    to_words,
)
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

__all__ = [
    "MATURITY",
    "Snapshot",
    "SnapshotRow",
    "SnapshotWriter",
    "StagedRows",
    "TableFacts",
    "missing_evidence",
    "write_table",
]

_BATCH_ROWS: Final = 1_024

_PRINT_COLUMNS: Final = ["title", "description", "image_digests", "image_hashes"]
_SEEN_KEYS: Final = ("seller", "template", "asset", "campaign")

_STAGED: Final = pa.schema([*ROW_FIELDS, ("links", pa.string())])
SCHEMA: Final = pa.schema(
    [
        *ROW_FIELDS,
        ("group", pa.int64()),
        ("role", pa.string()),
        ("fold", pa.int8()),
        ("emphasis", pa.float64()),
    ]
)


_SAYS_NOTHING: Final[Mapping[str, Any]] = {"emphasis": 1.0, "served": None}
"""Columns that older tables lack, with the value that is no part of the digest: a table keeps the digest that it had
before there was such a column, and opens as it did."""


@dataclass(frozen=True)
class StagedRows:
    """What the N rows of a snapshot in the making can be told apart by."""

    submission_ids: Sequence[str]
    links: Sequence[Sequence[tuple[str, str]]]
    """Per row what ties it to others: its seller first."""

    prints: Fingerprints
    image_digests: Sequence[Sequence[str]]


Bar = Callable[[StagedRows], npt.NDArray[np.str_]]
"""Gives, per row, why it must not enter the snapshot; the empty word where it may."""

Emphasise = Callable[[Mapping[str, Any]], float]
"""Gives, of a row's record, how many times as often training draws it; at least 1."""


class SnapshotWriter:
    """Takes rows in time order and writes one snapshot; memory holds no text and no image bytes."""

    def __init__(self, folder: Path, policy_ids: Sequence[str], cut_off: datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._policy_ids, self._cut_off = folder, tuple(policy_ids), cut_off
        self._staging = folder / "staged.parquet"
        self._sink = pq.ParquetWriter(self._staging, _STAGED)
        self._pending: list[dict[str, Any]] = []
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
        if is_immature(row.submission, self._cut_off):
            self._num_immature += 1
            return
        self._pending.append(to_record(row, self._policy_ids))
        self._num_rows += 1
        if len(self._pending) == _BATCH_ROWS:
            self._flush()

    def finish(self, bar: Bar | None = None, emphasise: Emphasise | None = None) -> "Snapshot":
        """Return the snapshot with roles, folds and groups, copies across the split and barred rows dropped.

        Args:
            bar: says which rows must stay out; their weight goes to the rows of their role and truth that stay.
            emphasise: asked about train rows alone; what calibrates and judges is never emphasised.

        Raises:
            InvalidSnapshot: if no row has a known truth, or every one is barred.
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
        links = _read_links(light)
        prints = _prints_of(pq.read_table(self._staging, columns=_PRINT_COLUMNS))
        group_N = group_rows(links)
        why_N = (
            np.zeros(self._num_rows, np.str_) if bar is None else bar(self._staged(links, prints))
        )
        barred_N = why_N != ""
        planned = _Planned.of(light, attributes, group_N)
        copies_N = planned.copies(prints, barred_N)
        split = planned.split(copies_N | barred_N)
        seen_role_N = np.where(split.keep_N, split.role_N, "left out")
        extra = mark_seen(_seen_values(attributes, light), seen_role_N, _SEEN_KEYS)
        counts = {
            "unknown_truth": self._num_unknown,
            "immature": self._num_immature,
            "purged": int((~split.keep_N & ~copies_N & ~barred_N).sum()),
            "copies": int(copies_N.sum()),
            "quarantined": int(barred_N.sum()),
        }
        for why in sorted(set(why_N[barred_N].tolist())):
            counts[f"quarantined_{why}"] = int((why_N == why).sum())
        if barred_N.all():
            raise InvalidSnapshot(f"every row is barred from training: {counts}")
        facts = TableFacts(self._policy_ids, self._cut_off, planned.mode, counts)
        records = self._finished(split, group_N, extra)
        if emphasise is not None:
            records = _emphasised(records, emphasise)
        frozen = write_table(self._folder, records, facts)
        self._staging.unlink()
        return frozen

    def _flush(self) -> None:
        if self._pending:
            self._sink.write_table(pa.Table.from_pylist(self._pending, schema=_STAGED))
            self._pending = []

    def _staged(
        self, links: Sequence[Sequence[tuple[str, str]]], prints: Fingerprints
    ) -> StagedRows:
        staged = pq.read_table(self._staging, columns=["submission_id", "image_digests"])
        return StagedRows(
            submission_ids=staged["submission_id"].to_pylist(),
            links=links,
            prints=prints,
            image_digests=staged["image_digests"].to_pylist(),
        )

    def _finished(
        self, split: Split, group_N: npt.NDArray[np.int64], extra: list[dict[str, str]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the staged records that stay, with their role; the work of `links` is done."""
        row = 0
        for batch in pq.ParquetFile(self._staging).iter_batches(_BATCH_ROWS):
            for record in batch.to_pylist():
                if split.keep_N[row]:
                    values = json.loads(record["attributes"]) | extra[row]
                    record |= {
                        "attributes": json.dumps(values, sort_keys=True),
                        "weight": float(split.weight_N[row]),
                        "group": int(group_N[row]),
                        "role": str(split.role_N[row]),
                        "fold": int(split.fold_N[row]),
                        "emphasis": 1.0,
                    }
                    record.pop("links")
                    yield record
                row += 1


def _emphasised(
    records: Iterable[dict[str, Any]], emphasise: Emphasise
) -> Iterator[dict[str, Any]]:
    for record in records:
        yield record | {"emphasis": emphasise(record)} if record["role"] == "train" else record


@dataclass(frozen=True)
class TableFacts:
    """What is said of a whole table."""

    policy_ids: tuple[str, ...]
    cut_off: datetime
    mode: Mode
    counts: Mapping[str, int]


def write_table(folder: Path, records: Iterable[dict[str, Any]], facts: TableFacts) -> "Snapshot":
    """Return the snapshot of finished records, written to `folder` as they come."""
    digest, pending = hashlib.sha256(), list[dict[str, Any]]()
    with pq.ParquetWriter(folder / "rows.parquet", SCHEMA) as sink:
        for record in records:
            _update(digest, record)
            pending.append(record)
            if len(pending) == _BATCH_ROWS:
                sink.write_table(pa.Table.from_pylist(pending, schema=SCHEMA))
                pending.clear()
        sink.write_table(pa.Table.from_pylist(pending, schema=SCHEMA))
    manifest = {
        "digest": digest.hexdigest(),
        "policies": facts.policy_ids,
        "features": FEATURE_NAMES,
        "cut_off": facts.cut_off.astimezone(UTC).isoformat(),
        "mode": facts.mode,
        **facts.counts,
    }
    (folder / "snapshot.json").write_text(json.dumps(manifest, indent=1))
    return Snapshot.open(folder)


def _update(digest: "hashlib._Hash", record: Mapping[str, Any]) -> None:
    said = {**_SAYS_NOTHING, **record}
    ordered = {
        name: said[name]
        for name in sorted(SCHEMA.names)
        if name not in _SAYS_NOTHING or said[name] != _SAYS_NOTHING[name]
    }
    digest.update(json.dumps(ordered, default=str).encode())


@dataclass(frozen=True)
class Snapshot:
    """A written snapshot; columns are read on demand."""

    folder: Path
    digest: str
    policy_ids: tuple[str, ...]
    mode: Mode
    cut_off: datetime
    counts: Mapping[str, int]
    """How many rows were left out, by reason: `unknown_truth`, `immature`, `purged`, `copies`, `quarantined`."""

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
            counts={k: v for k, v in manifest.items() if isinstance(v, int)},
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
    def emphasis(self) -> npt.NDArray[np.float64]:
        """emphasis_N: how many times as often training draws a row; 1 for all that is no train row.

        Tables that were frozen before there was an emphasis have none.
        """
        if "emphasis" not in pq.read_schema(self.folder / "rows.parquet").names:
            return np.ones(self.num_rows)
        return self.column("emphasis").astype(np.float64)

    @property
    def group(self) -> npt.NDArray[np.int64]:
        """group_N: seller and campaign component."""
        return self.column("group").astype(np.int64)

    def truth_NP(self) -> npt.NDArray[np.int8]:
        """Return 1 violates, 0 does not, -1 unknown; columns in the order of `policy_ids`."""
        return np.array(self._lists("truth"), np.int8).reshape(-1, len(self.policy_ids))

    def adjudicated_NP(self) -> npt.NDArray[np.bool_]:
        """Return whether the truth was confirmed by a second person or a finished appeal."""
        return np.array(self._lists("adjudicated"), bool).reshape(-1, len(self.policy_ids))

    def image_digests(self) -> list[list[str]]:
        """Return the digests of each row's images."""
        return self._lists("image_digests")

    def fingerprints(self) -> Fingerprints:
        """Return what the rows are compared by when copies are looked for."""
        return _prints_of(pq.read_table(self.folder / "rows.parquet", columns=_PRINT_COLUMNS))

    def content_digest(self) -> str:
        """Return the digest of the rows as they are on disk; that of the manifest unless they were altered."""
        digest = hashlib.sha256()
        for batch in self.batches():
            for record in batch.to_pylist():
                _update(digest, record)
        return digest.hexdigest()

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

    def copies(
        self, prints: Fingerprints, barred_N: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Return the rows that a row of any later role is a copy of; barred rows are no part of it."""
        copies_N = np.zeros(len(self.place_N), bool)
        for later in range(1, int(self.place_N.max(initial=0)) + 1):
            earlier_N = (self.place_N < later) & ~barred_N
            copies_N |= copies_of(prints, earlier_N, (self.place_N == later) & ~barred_N)
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


def _prints_of(table: pa.Table) -> Fingerprints:
    texts = zip(table["title"].to_pylist(), table["description"].to_pylist(), strict=True)
    found = [
        (row, to_words(text))
        for row, hashes in enumerate(table["image_hashes"].to_pylist())
        for text in hashes or ()
    ]
    return Fingerprints(
        image_row_I=np.array([row for row, _ in found], np.int64),
        image_hash_I4=np.array([words for _, words in found], np.uint64).reshape(-1, 4),
        num_images_N=np.array([len(digests) for digests in table["image_digests"].to_pylist()]),
        text_N=[plain_text(title, text) for title, text in texts],
    )


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
