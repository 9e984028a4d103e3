"""Entries of banks for tests: hashes with known distances, written as an entries file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

POLICIES = ("weapons", "spam")
Hash = npt.NDArray[np.uint64]


def hashes(num: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return `num` even hashes, N x 4."""
    return np.random.default_rng(seed).integers(0, 2**64, (num, 4), dtype=np.uint64)


def flipped(hash_4: Hash, bits: Sequence[int]) -> Hash:
    """Return a hash with those bits flipped, counted as bands count them."""
    changed = hash_4.copy()
    for bit in bits:
        changed[bit // 64] ^= np.uint64(1 << (bit % 64))
    return changed


def apart(hash_4: Hash, distance: int, seed: int = 0) -> Hash:
    """Return a hash at `distance` from another, its differing bits anywhere."""
    draw = np.random.default_rng(seed)
    return flipped(hash_4, draw.choice(256, distance, replace=False).tolist())


def entry(entry_id: str, hash_4: Hash, **fields: Any) -> dict[str, Any]:
    """Return a row of an entries file."""
    return {
        "entry_id": entry_id,
        "bank": "guns",
        "kind": "match",
        "policy": "weapons",
        "pdq": hash_4.astype(">u8").tobytes().hex(),
        "quality": 90,
        "enabled": True,
        "added_at": "2026-11-01T00:00:00Z",
        "note": "",
    } | fields


def good(entry_id: str, hash_4: Hash, **fields: Any) -> dict[str, Any]:
    """Return a row of a known-good image."""
    return entry(entry_id, hash_4, **{"bank": "catalogue", "kind": "negative", **fields})


def entries_file(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSONL and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
