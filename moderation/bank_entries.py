"""The entries file of the banks: known images, one row each, read from JSONL or Parquet and checked as a whole."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from moderation.errors import BankRejected
from moderation.pdq import MIN_QUALITY

KINDS: Final = ("match", "negative")
"""What an entry's bank says: known bad, or known good."""

ANY_POLICY: Final = "*"
"""Policy of a known-good image that is good under every policy."""

MAX_ENTRIES: Final = 2**31
_SHOWN: Final = 5
_SCHEMA: Final = pa.schema(
    [
        ("entry_id", pa.string()),
        ("bank", pa.string()),
        ("kind", pa.string()),
        ("policy", pa.string()),
        ("pdq", pa.string()),
        ("quality", pa.int64()),
        ("enabled", pa.bool_()),
        ("added_at", pa.timestamp("us", "UTC")),
        ("note", pa.string()),
    ]
)
_PATTERNS: Final = {
    "entry_id": r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$",
    "bank": r"^[a-z][a-z0-9_-]{0,63}$",
    "pdq": r"^[0-9a-f]{64}$",
}


@dataclass(frozen=True)
class Entries:
    """N entries that may be indexed, in the order of their ids, and what was left out."""

    table: pa.Table
    """Columns entry_id, bank, kind, policy, pdq, quality, enabled, added_at, note."""

    low_quality: tuple[str, ...]
    """Ids of entries whose hash says nothing; they are in no index."""

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Return the hashes as words, N x 4: the first digit of a PDQ is the highest bit of the first word."""
        digits = "".join(self.table.column("pdq").to_pylist())
        return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(-1, 4)


def read_entries(path: Path, policies: Collection[str]) -> Entries:
    """Return the checked entries of a file.

    Each row is {entry_id, bank, kind: match | negative, policy, pdq: 64 hexadecimal digits, quality: 0 to 100, enabled,
    added_at: an instant with its zone, note}; `enabled` is true and `note` empty where they are left out. An entry has
    one hash: altered copies of an image are entries of their own.

    Args:
        path: `.jsonl` or `.parquet`.
        policies: ids that an entry may name; a negative entry may also name `*`, all of them.

    Raises:
        BankRejected: naming the file and the first wrong rows, counted from 1; or if no row is left to index.
    """
    try:
        table = _checked(_read(path), path, policies)
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise BankRejected(f"{path}: {error}; write names and values in UTF-8") from error
    is_low_N = pc.less(table.column("quality"), MIN_QUALITY)
    low = table.filter(is_low_N).column("entry_id").to_pylist()
    kept = table.filter(pc.invert(is_low_N)).sort_by("entry_id").combine_chunks()
    if not kept.num_rows:
        raise BankRejected(
            f"{path}: none of {table.num_rows} entries can be indexed; add images of PDQ quality {MIN_QUALITY} or more"
        )
    return Entries(kept, tuple(low))


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".jsonl":
            _check_lines(path)
            wanted = pa.schema(
                [pa.field(f.name, f.type if f.name != "added_at" else pa.string()) for f in _SCHEMA]
            )
            options = pyarrow.json.ParseOptions(
                explicit_schema=wanted, unexpected_field_behavior="infer"
            )
            return pyarrow.json.read_json(path, parse_options=options)
    except (OSError, pa.ArrowException) as error:
        raise BankRejected(f"{path}: cannot be read: {error}; correct the file") from error
    raise BankRejected(f"{path}: give entries as .jsonl or .parquet")


def _check_lines(path: Path) -> None:
    """Refuse lines that are no object: Arrow's reader ends the process where a block of them begins with `null`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            for part in line.split(b"\r"):
                if part.lstrip(b" \t\n\xef\xbb\xbf")[:1] not in (b"", b"{"):
                    raise BankRejected(f"{path}: line {number} is no JSON object; correct the file")


def _checked(table: pa.Table, path: Path, policies: Collection[str]) -> pa.Table:
    strange = sorted(set(table.column_names) - set(_SCHEMA.names))
    lacking = sorted(set(_SCHEMA.names) - {"enabled", "note"} - set(table.column_names))
    if strange or lacking or len(set(table.column_names)) < table.num_columns:
        raise BankRejected(
            f"{path}: columns are {', '.join(_SCHEMA.names)}, once each; too many: {strange}, missing: {lacking}"
        )
    if table.num_rows >= MAX_ENTRIES:
        raise BankRejected(f"{path}: {table.num_rows} entries; an index takes {MAX_ENTRIES - 1}")
    table = _typed(table, path)
    wrong = [
        *_wrong_values(table, policies),
        ("is there twice", _repeated(table.column("entry_id").to_numpy())),
        ("names a bank that is both match and negative", _mixed(table)),
    ]
    told = [
        f"row {row + 1} ({table.column('entry_id')[row].as_py()}) {what}"
        for what, rows in wrong
        for row in rows[:_SHOWN].tolist()
    ]
    if told:
        raise BankRejected(f"{path}: {'; '.join(told[:_SHOWN])}; correct the file and build again")
    return table


def _typed(table: pa.Table, path: Path) -> pa.Table:
    columns = []
    for field in _SCHEMA:
        default = {"enabled": True, "note": ""}.get(field.name)
        if field.name not in table.column_names:
            columns.append(pa.repeat(pa.scalar(default, field.type), table.num_rows))
            continue
        try:
            column = table.column(field.name).cast(field.type)
        except pa.ArrowException as error:
            raise BankRejected(f"{path}: {field.name}: {error}; it is {field.type}") from error
        columns.append(column if default is None else pc.fill_null(column, default))
    typed = pa.table(columns, schema=_SCHEMA)
    pdq = typed.schema.get_field_index("pdq")
    return typed.set_column(pdq, "pdq", pc.utf8_lower(typed.column("pdq")))


def _wrong_values(
    table: pa.Table, policies: Collection[str]
) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Return what may be wrong with a row, and the rows where it is."""
    kind, policy, quality = (table.column(name) for name in ("kind", "policy", "quality"))
    is_known = pc.or_(
        pc.is_in(policy, pa.array(sorted(policies), pa.string())),
        pc.and_(pc.equal(policy, ANY_POLICY), pc.equal(kind, "negative")),
    )
    held = {
        f"has another {name} than {pattern}": pc.match_substring_regex(table.column(name), pattern)
        for name, pattern in _PATTERNS.items()
    } | {
        f"has a kind that is none of {KINDS}": pc.is_in(kind, pa.array(KINDS)),
        f"names no policy of {sorted(policies)}": is_known,
        "has a quality outside 0 to 100": pc.and_(
            pc.greater_equal(quality, 0), pc.less_equal(quality, 100)
        ),
        "has no added_at": pc.is_valid(table.column("added_at")),
    }
    return [
        (what, np.flatnonzero(~pc.fill_null(mask, False).to_numpy())) for what, mask in held.items()
    ]


def _repeated(ids_N: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    words = ids_N.astype(str)
    order = np.argsort(words, kind="stable")
    again: npt.NDArray[np.int64] = order[1:][words[order][1:] == words[order][:-1]]
    return again


def _mixed(table: pa.Table) -> npt.NDArray[np.int64]:
    kinds: dict[str, set[str]] = {}
    pairs = table.group_by(["bank", "kind"]).aggregate([])
    for bank, kind in zip(pairs["bank"].to_pylist(), pairs["kind"].to_pylist(), strict=True):
        kinds.setdefault(bank, set()).add(kind)
    mixed = [bank for bank, found in kinds.items() if len(found) > 1]
    return np.flatnonzero(pc.is_in(table.column("bank"), pa.array(mixed, pa.string())).to_numpy())
