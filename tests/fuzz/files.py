"""Files that people and processes write: patterns, bank entries, routing tables; read whole, or refused by name."""

import io
import json
import math
import random
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet

from moderation.bank_entries import read_entries
from moderation.errors import BankRejected, PatternError, PermanentError
from moderation.pattern_file import parse_patterns
from moderation.pdq import pdq_bits
from serving.routing import Route, RoutingTable, choose, load_table, write_table
from tests.fuzz.mutations import of_bytes, of_json
from tests.fuzz.target import Target

_POLICIES: Final = ("spam", "weapons", "counterfeit")


@cache
def _folder() -> Path:
    kept = tempfile.TemporaryDirectory(prefix="tidegate-fuzz-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: Final[list[tempfile.TemporaryDirectory[str]]] = []


def _pattern_files() -> list[bytes]:
    one = "{id: one, policy: spam, kind: literal, text: gift card, note: asked for, author: ana}"
    two = "{id: two, policy: weapons, kind: regex, text: 'a+b', note: asked for, author: ana, expires: 2027-01-01}"
    tags = "version: &v 1\npatterns:\n  - {<<: *v, id: !!int x, note: !!timestamp x}\n"
    return [
        Path("policies/patterns.yaml").read_bytes(),
        f"version: 1\npatterns:\n  - {one}\n  - {two}\n".encode(),
        tags.encode(),
        b"version: 1\npatterns: [[[[{a: &a [1, *a]}]]]]\n",
    ]


def check_pattern_file(data: bytes) -> int:
    """Read a pattern file."""
    try:
        file = parse_patterns(data, "patterns.yaml", _POLICIES)
    except PatternError as error:
        assert str(error).startswith("patterns.yaml:")
        return len(data)
    assert all(pattern.policy in _POLICIES for pattern in file.patterns)
    return len(data)


def _entries() -> list[bytes]:
    rows = [
        {
            "entry_id": f"e{n}",
            "bank": ("bad", "good")[n % 2],
            "kind": ("match", "negative")[n % 2],
            "policy": ("weapons", "*")[n % 2],
            "pdq": f"{n:064x}",
            "quality": 40 + 20 * n,
            "enabled": True,
            "added_at": "2026-11-22T10:00:00Z",
            "note": "é",
        }
        for n in range(3)
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    path = _folder() / "seed.jsonl"
    path.write_bytes(lines)
    buffer = io.BytesIO()
    table = read_entries(path, _POLICIES).table
    pyarrow.parquet.write_table(table, buffer, compression="none")
    return [lines, lines.split(b"\n")[0], buffer.getvalue()]


def check_entries(data: bytes) -> int:
    """Read an entries file, as Parquet where it says so."""
    path = _folder() / ("entries.parquet" if data[:3] == b"PAR" else "entries.jsonl")
    path.write_bytes(data)
    try:
        entries = read_entries(path, _POLICIES)
    except BankRejected as error:
        assert str(path) in str(error)
        return len(data)
    hashes = entries.hashes()
    assert hashes.shape == (entries.table.num_rows, 4)
    ids = entries.table.column("entry_id").to_pylist()
    assert ids == sorted(set(ids))
    return len(data)


def _tables() -> list[bytes]:
    path, found = _folder() / "seed.json", []
    first, second = "a" * 64, "b" * 64
    one = {first: Route(url="grpc://127.0.0.1:9000", weight=1.0)}
    two = {**one, second: Route(url="grpc://b.example:1", weight=0.1, caps={"weapons": "block"})}
    for releases in (one, two):
        table = RoutingTable(revision=7, champion=first, releases=releases, shadow=None, salt="s")
        write_table(path, table)
        found.append(path.read_bytes())
    return [*found, found[0].replace(b":9000", b":99999"), found[0].replace(b"30.0", b"1e999")]


def check_table(data: bytes) -> int:
    """Read a routing table, choose by it, and write it back."""
    path = _folder() / "routing.json"
    path.write_bytes(data)
    try:
        table = load_table(path)
    except PermanentError as error:
        assert str(path) in str(error)
        return len(data)
    assert math.isfinite(table.lease_s), "a lease without end"
    choice = choose(table, "seller-1", is_lease_live=True)
    assert choice.release in table.releases
    assert 0 <= choice.weight <= 1
    port = int(choice.url.rpartition(":")[2])
    assert 0 < port < 2**16, "a port that no socket has"
    write_table(path, table)
    assert load_table(path) == table, "a table is not read as it was written"
    return len(data)


def check_pdq(data: bytes) -> int:
    """Hash pixels of any shape."""
    height = int.from_bytes(data[:2], "little") % 400 + 1
    width = max(1, min(400, len(data) // height))
    pixels = np.resize(np.frombuffer(data + b"\0", np.uint8), (height, width, 3))
    bits, quality = pdq_bits(pixels)
    assert bits.shape == (256,)
    assert 0 <= quality <= 100
    again, same = pdq_bits(pixels)
    assert (bits == again).all()
    assert quality == same
    return height * width


def _pixels() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(size) for size in (3, 300, 5_000)] + [bytes(900), b"\xff" * 900]


def _mutate_entries(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return (of_bytes if rng.random() < 0.6 else of_json)(rng, seeds)


FILES: Final = (
    Target(
        "pattern-file",
        _pattern_files,
        of_bytes,
        check_pattern_file,
        4,
        150,
        60,
        "bytes",
        120,
        ("moderation.pattern_file", "moderation.yaml_lines"),
    ),
    Target(
        "bank-entries",
        _entries,
        _mutate_entries,
        check_entries,
        5,
        100,
        30,
        "bytes",
        200,
        ("moderation.bank_entries",),
    ),
    Target(
        "routing-table", _tables, of_json, check_table, 4, 15, 20, "bytes", 60, ("serving.routing",)
    ),
    Target("pdq", _pixels, of_bytes, check_pdq, 4, 20, 2, "pixels", 60, ("moderation.pdq",)),
)
