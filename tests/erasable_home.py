"""A home with everything that is kept of a seller: events, blobs, embeddings, features, reports, pictures."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from components.home import Home
from featurestore.layout import Place
from featurestore.writer import catch_up
from ledger.events import Event, from_ground_truth, from_report, from_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.clock import SystemClock
from moderation.embedding_cache import EmbeddingCache
from moderation.embedding_plan import text_key
from moderation.listing import GroundTruth, Listing, Report, Submission, TruthSource

GONE: Final = "the-erased-seller"
STAYS: Final = "the-other-seller"
TITLE: Final = "Water pistol of the erased"
POLICIES: Final = ("weapons", "counterfeit", "spam")
TOWERS: Final = ("tower-1", "tower-2")


def photo(seed: int) -> bytes:
    """Return a small JPEG of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def fill(home: Home) -> None:
    """Fill a home with two sellers who share a device, and bring its feature store up to date."""
    ledger, store, now = SqliteLedger(home.ledger), ContentStore(home.content), SystemClock().now()
    begin = now - timedelta(days=9)
    for number, seller in enumerate((GONE, STAYS, GONE)):
        ledger.append(list(_events(store, number, seller, begin + timedelta(days=number))))
    cache = EmbeddingCache(home.embeddings)
    for stored in ledger.read():
        if "listing" not in stored.event.payload:
            continue
        submission = Submission.model_validate(stored.event.payload)
        listing, digest = submission.listing, submission.image_digests[0]
        keys = (text_key(listing.title, listing.description), bytes.fromhex(digest))
        for tower in TOWERS:
            entries = [(key, view, np.ones(4, np.float32)) for key in keys for view in (0, 1)]
            cache.put(tower, entries)
    cache.close()
    _keep_files(home)
    catch_up(Place((home.folder / "features").absolute()), ledger, SystemClock())


def _events(store: ContentStore, number: int, seller: str, at: datetime) -> Iterator[Event]:
    title = f"{TITLE} {number}" if seller == GONE else "A chair"
    listing = Listing(
        listing_id=f"listing-{number}",
        seller_id=seller,
        title=title,
        device_fingerprint="shared-device",
        address_fingerprint=f"address-of-{number}",
        category="toys",
        currency="EUR",
        price=5.0,
    )
    digest = store.put(photo(number), seller)
    submission = Submission(
        submission_id=f"u{number}", listing=listing, image_digests=(digest,), submitted_at=at
    )
    yield from_submission(submission, recorded_at=at)
    truth = GroundTruth(
        submission_id=f"u{number}",
        policy="weapons",
        violates=True,
        source=TruthSource.REVIEW,
        reviewed_at=at,
        known_at=at + timedelta(hours=1),
    )
    yield from_ground_truth(truth, recorded_at=truth.known_at, seller_id=seller)
    report = Report(report_id=f"r{number}", submission_id=f"u{number}", reported_at=at)
    yield from_report(report, recorded_at=at)  # whoever reports knows no seller


def _keep_files(home: Home) -> None:
    lines = [
        {
            "submission_id": f"u{number}",
            "attacked": {
                "title": TITLE if number != 1 else "A ch4ir",
                "images": [f"{number}" * 64],
            },
        }
        for number in range(3)
    ]
    (home.hard_examples / "images").mkdir(parents=True)
    for number in range(3):
        (home.hard_examples / "images" / f"{str(number) * 64}.jpg").write_bytes(photo(number))
    _write_lines(home.hard_examples / "bundle.jsonl", lines)
    _write_lines(
        home.imported, [{"row": n, "listing_id": f"listing-{n}", "missing": []} for n in range(3)]
    )
    _write_lines(
        home.unseen, [{"listing": {"seller_id": one}, "images": []} for one in (GONE, STAYS)]
    )


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def everything(folder: Path) -> bytes:
    """Return every byte of every file below a folder, and what the Parquet files say."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found += [os.fsencode(path.name), path.read_bytes()]
            if path.suffix == ".parquet":
                found.append(repr(pq.read_table(path).to_pylist()).encode())
    return b"\0".join(found)


def embedded(home: Home, number: int) -> int:
    """Return how many of the embeddings of one upload are there; two towers, a text and a picture, two views: eight."""
    title = f"{TITLE} {number}" if number != 1 else "A chair"
    cache = EmbeddingCache(home.embeddings)
    keys = (text_key(title, ""), hashlib.sha256(photo(number)).digest())
    views = [cache.get(one, key, view) for one in TOWERS for key in keys for view in (0, 1)]
    cache.close()
    return sum(one is not None for one in views)


UTC_END: Final = datetime(2100, 1, 1, tzinfo=UTC)
