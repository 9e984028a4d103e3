"""A toy marketplace for tests: a few words, a coloured shape and two behaviour features tell each violation."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from moderation.features import FEATURE_NAMES
from moderation.listing import Listing, Submission
from moderation.policy import load_policies
from moderation.snapshot import Snapshot, SnapshotRow, SnapshotWriter

POLICIES: Final = load_policies(Path(__file__).parents[1] / "policies" / "marketplace.yaml").ids
START: Final = datetime(2026, 3, 1, tzinfo=UTC)
_BENIGN: Final = "garden chair lamp blue old table nice bike kids book phone case shoes red".split()
_TELLING: Final = ("pistol ammo barrel", "replica mirror copy", "whatsapp click cash")
_COLOURS: Final = ((200, 30, 30), (30, 180, 60), (40, 60, 210))


@dataclass
class ToyWorld:
    """Rows with truth, and the bytes of their images by digest."""

    rows: list[SnapshotRow] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def snapshot(self, folder: Path) -> Snapshot:
        """Return the rows as a snapshot in `folder`."""
        writer = SnapshotWriter(folder, POLICIES, START + timedelta(days=400))
        for row in self.rows:
            writer.add(row)
        return writer.finish()

    def images(self, row: SnapshotRow) -> list[bytes]:
        """Return the encoded images of a row."""
        return [self.blobs[digest] for digest in row.submission.image_digests]


def toy_image(rng: np.random.Generator, colour: Sequence[int] | None) -> bytes:
    """Return a small noisy PNG; with `colour`, a disc of it somewhere."""
    noise = rng.integers(90, 150, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((72, 64))
    if colour is not None:
        left, top = (int(place) for place in rng.integers(4, 28, 2))
        ImageDraw.Draw(image).ellipse((left, top, left + 30, top + 30), fill=tuple(colour))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def toy_world(num_rows: int, seed: int = 5) -> ToyWorld:
    """Return `num_rows` listings in time order, with every combination of modalities among any 8 in a row."""
    rng = np.random.default_rng(seed)
    world = ToyWorld()
    for number in range(num_rows):
        guilty = {policy: bool(rng.random() < 0.25) for policy in POLICIES}
        images = _images(rng, list(guilty.values())) if number & 1 else []
        digests = []
        for data in images:
            digest = hashlib.sha256(data).hexdigest()
            world.blobs[digest] = data
            digests.append(digest)
        title, description = _text(rng, list(guilty.values())) if number & 2 else ("", "")
        behaviour_F = _behaviour(rng, any(guilty.values())) if number & 4 else None
        submission = Submission(
            submission_id=f"u{number}",
            listing=Listing(
                listing_id=f"l{number}",
                seller_id=f"s{number // 2}",
                title=title,
                description=description,
                price=float(rng.integers(1, 90)),
                currency="EUR",
            ),
            image_digests=tuple(digests),
            submitted_at=START + timedelta(hours=number),
        )
        world.rows.append(SnapshotRow(submission, behaviour_F, guilty))
    return world


def _images(rng: np.random.Generator, guilty: Sequence[bool]) -> list[bytes]:
    colours = [c for c, g in zip(_COLOURS, guilty, strict=True) if g and rng.random() < 0.8]
    extra = [None] * int(rng.integers(0, 3))
    return [toy_image(rng, colour) for colour in (colours + extra or [None])]


def _text(rng: np.random.Generator, guilty: Sequence[bool]) -> tuple[str, str]:
    words = [str(word) for word in rng.choice(_BENIGN, int(rng.integers(3, 9)))]
    for telling, is_guilty in zip(_TELLING, guilty, strict=True):
        if is_guilty and rng.random() < 0.8:
            words.insert(int(rng.integers(0, len(words))), str(rng.choice(telling.split())))
    return " ".join(words[:3]), " ".join(words[3:])


def _behaviour(rng: np.random.Generator, is_guilty: bool) -> npt.NDArray[np.float32]:
    values_F = rng.exponential(2.0, len(FEATURE_NAMES)).astype(np.float32)
    values_F[1] += 4.0 * is_guilty
    values_F[rng.random(len(values_F)) < 0.1] = np.nan
    return values_F
