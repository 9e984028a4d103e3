"""A small made table with an official split, so that the benchmark itself is run where no real listings are."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NUM_ROWS = 240
_POLICY = """version: smoke
on_failure: allow_and_review
confidence: 0.95
policies:
  - id: red
    title: Red things
    reason_code: RED_THINGS
    seller_message: Red things may not be listed here.
    tiers:
      tag: { precision: 0.05 }
      review: { precision: 0.2, max_share: 0.1 }
      block: { precision: 0.95 }
      suspend: { precision: 0.99 }
    keywords: [red]
"""
_MAPPING = """policies: policies.yaml
listing_id: number
title: title
description: description
images: photo
undated_at: 2026-01-01T00:00:00Z
split: split
truth:
  red: { column: red, positive: [1], negative: [0] }
attributes:
  evasion: evasion
"""


def write_table(folder: Path) -> tuple[Path, Path]:
    """Write listings of plain colours, their policy and their mapping; return table and mapping."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    rows = [_row(number, rng) for number in range(NUM_ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "listings.parquet")
    (folder / "policies.yaml").write_text(_POLICY)
    (folder / "mapping.yaml").write_text(_MAPPING)
    return folder / "listings.parquet", folder / "mapping.yaml"


def _row(number: int, rng: np.random.Generator) -> dict[str, Any]:
    is_red, is_evasive = number % 5 == 0, number % 10 == 0
    colour = (200, 40, 40) if is_red else (40, 120, 200)
    pixels = rng.normal(colour, 45, (72, 72, 3)).clip(0, 255).astype(np.uint8)
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "JPEG")
    return {
        "number": f"n{number}",
        "title": "red cup" if is_red and not is_evasive else f"cup of size {number % 7}",
        "description": f"a cup, hardly used, item {number}",
        "photo": photo.getvalue(),
        "split": "test" if number % 3 == 0 else "train",
        "red": int(is_red),
        "evasion": "bland" if is_evasive else "none",
    }
