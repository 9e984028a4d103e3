"""Foreign tables made by tests, and a ledger, a store and a report to import them into."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from ledger.events import EventKind, to_ground_truth, to_submission
from ledger.importing import Destination, ImportReport, import_listings, open_source
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.clock import SimulatedClock
from moderation.listing import GroundTruth, Submission
from moderation.policy import PolicyFile, load_policies

ROOT = Path(__file__).parents[1]
GROCERY = load_policies(ROOT / "examples" / "grocery_store" / "policies.yaml")
MARKET = load_policies(ROOT / "policies" / "marketplace.yaml")
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def photo(seed: int = 0, *, kind: str = "JPEG", camera: str | None = None) -> bytes:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    exif = Image.Exif()
    if camera:
        exif[0x010F] = camera
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


class Shop:
    """A ledger, a store and a report below one folder, and imports into them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = SqliteLedger(folder / "home" / "ledger.sqlite")
        self.store = ContentStore(folder / "home" / "content")
        self.report_file = folder / "home" / "import.jsonl"

    def run(
        self, path: Path, policies: PolicyFile = GROCERY, mapping: Path | None = None
    ) -> ImportReport:
        source = open_source(path, policies.ids, mapping=mapping)
        target = Destination(self.ledger, self.store, self.report_file)
        return import_listings(source, policies, target, SimulatedClock(NOW))

    @property
    def submissions(self) -> list[Submission]:
        return [to_submission(s.event) for s in self.ledger.read([EventKind.SUBMISSION])]

    @property
    def truths(self) -> list[GroundTruth]:
        return [to_ground_truth(s.event) for s in self.ledger.read([EventKind.GROUND_TRUTH])]

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.report_file.read_text("utf-8").splitlines()]


def write_mapping(folder: Path, **fields: Any) -> Path:
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(fields), "utf-8")
    return path


MAPPING: dict[str, Any] = {
    "listing_id": "sku",
    "title": ["evasive", "name"],
    "description": "text",
    "images": {"columns": ["photo"]},
    "price": "price",
    "currency": "money",
    "seller_id": "shop",
    "language": "lang",
    "submitted_at": "when",
    "weight": "w",
    "split": {"column": "part", "values": {"held out": "test"}},
    "truth": {"plant_based_carton": {"column": "banned", "positive": ["yes"], "negative": ["no"]}},
    "attributes": {"evasion": "trick", "hard": "hard"},
}


def row(**changes: Any) -> dict[str, Any]:
    fields = {
        "sku": "a-1",
        "evasive": None,
        "name": "Oat drink",
        "text": "One litre",
        "photo": photo(),
        "price": 1.5,
        "money": "eur",
        "shop": "Shop No. 7",
        "lang": "en-GB",
        "when": datetime(2026, 4, 1, 12),
        "w": 4.0,
        "part": "held out",
        "banned": "yes",
        "trick": None,
        "hard": False,
        "secret": "never read",
    }
    return fields | changes


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "data" / "listings.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    write_mapping(path.parent, **MAPPING)
    return path


def write_csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    data = folder / "shop"
    (data / "photos").mkdir(parents=True, exist_ok=True)
    for index in range(3):
        (data / "photos" / f"{index}.jpg").write_bytes(photo(index))
    (data / "listings.csv").write_text(text, encoding, newline="")
    write_mapping(
        data,
        listing_id="id",
        title="title",
        images={"columns": ["image"], "folder": "photos", "separator": "|"},
        price="price",
        truth={
            "weapons": {"column": "gun", "negative": [0]},
            "spam": {"column": "spam", "negative": [0]},
        },
    )
    return data
