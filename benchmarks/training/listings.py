"""Made listings of any number, cheap enough to make that training is what is measured."""

import hashlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ledger.store import ContentStore
from moderation.features import FEATURE_NAMES
from moderation.listing import Listing, Submission
from moderation.policy import load_policies
from moderation.settings import settings
from moderation.snapshot import MATURITY, Snapshot, SnapshotRow, SnapshotWriter

_START = datetime(2026, 1, 1, tzinfo=UTC)
_VIOLATING = 0.1
_SELLER_ROWS = 4
_SIDE = 128
_WORDS = (
    "garden chair lamp blue old table nice bike kids book phone case shoes red new large with box and for sale "
    "very good condition pick up only never used wool cotton steel oak summer winter size small vintage camera"
).split()
_TELLING = ("pistol ammo barrel", "replica mirror copy", "whatsapp click cash")


def write_listings(num_rows: int, folder: Path, seed: int = 7) -> Snapshot:
    """Return a snapshot of `num_rows` rows in time order; images go to `folder/content`."""
    policies = load_policies(settings().policy_file).ids
    store = ContentStore(folder / "content")
    end = _START + timedelta(minutes=num_rows) + MATURITY
    writer = SnapshotWriter(folder / "snapshot", policies, end)
    for row in _rows(num_rows, policies, store, np.random.default_rng(seed)):
        writer.add(row)
    return writer.finish()


def _rows(
    num_rows: int, policies: tuple[str, ...], store: ContentStore, rng: np.random.Generator
) -> Iterator[SnapshotRow]:
    for number in range(num_rows):
        truth = {policy: bool(rng.random() < _VIOLATING / len(policies)) for policy in policies}
        guilty = np.array(list(truth.values()))
        images = [store.put(_image(rng, guilty)) for _ in range(int(rng.poisson(1.6)))]
        words = [str(word) for word in rng.choice(_WORDS, 36)]
        for place in np.flatnonzero(guilty)[:1]:
            words[3] = str(rng.choice(_TELLING[place % len(_TELLING)].split()))
        behaviour_F = rng.exponential(2.0, len(FEATURE_NAMES)).astype(np.float32)
        behaviour_F[1] += 2.0 * guilty.any()
        submission = Submission(
            submission_id=f"u{number}",
            listing=Listing(
                listing_id=f"l{number}",
                seller_id=f"s{number // _SELLER_ROWS}",
                title=" ".join(words[:6]),
                description=f"{' '.join(words[6:])} {hashlib.sha256(str(number).encode()).hexdigest()[:8]}",
            ),
            image_digests=tuple(dict.fromkeys(images[:8])),
            submitted_at=_START + timedelta(minutes=number),
            inclusion_probability=1.0 if guilty.any() else 0.1,
        )
        yield SnapshotRow(submission, behaviour_F, truth)


def _image(rng: np.random.Generator, guilty: npt.NDArray[np.bool_]) -> bytes:
    coarse = rng.integers(60, 200, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    for place in np.flatnonzero(guilty)[:1]:
        fill = tuple(255 if channel == place % 3 else 20 for channel in range(3))
        ImageDraw.Draw(image).ellipse((30, 30, 80, 80), fill=fill)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()
