"""Listings with detailed photos and texts of their own, to draw golden sets from and to plant copies among."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from components.snapshot.step import hashed_rows
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ImageEncoder
from moderation.golden import GoldenSet, build_golden
from moderation.image_copies import ImageCopies
from moderation.listing import Listing, Submission
from moderation.release import GoldenRules
from moderation.snapshot import SnapshotRow

POLICIES = ("weapons", "spam")
START = datetime(2026, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=60)
RULES = GoldenRules(share_of_groups=0.3, max_items=1_000, rotation_share=0.2, max_looks=3)
_WORDS = (
    "amber basket copper drawer ember fiddle garnet hammock iron jigsaw kettle lantern marble needle ochre "
    "pewter quilt ribbon saddle teapot umber velvet walnut xylophone yarn zither"
).split()


def photo(seed: int, side: int = 160) -> Image.Image:
    """Return a picture with enough detail to be told from every other one."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(30, 220, 3)))
    draw = ImageDraw.Draw(image)
    for number in range(30):
        left, top = (int(place) for place in rng.integers(-20, side - 10, 2))
        box = (left, top, left + int(rng.integers(8, 60)), top + int(rng.integers(8, 60)))
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        (draw.ellipse if number % 2 else draw.rectangle)(box, fill=colour)
    return image


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """Return a picture as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def own_text(seed: int) -> str:
    """Return a text that nobody else writes."""
    return " ".join(np.random.default_rng(seed).choice(_WORDS, 14).tolist())


@dataclass
class GoldenWorld:
    """Rows with truth in time order, and the bytes of their photos."""

    rows: list[SnapshotRow] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, num_rows: int) -> "GoldenWorld":
        """Return a world of sellers with two listings each; every fourth is a violation, every fourth suspected."""
        world = cls()
        for number in range(num_rows):
            world.add(
                seller=f"s{number // 2}",
                image=photo(number),
                text=own_text(number),
                truth={"weapons": number % 4 == 0, "spam": number % 8 == 0},
                is_suspected=number % 4 == 1,
            )
        return world

    def add(
        self,
        *,
        seller: str | None,
        image: Image.Image | bytes | None = None,
        text: str = "",
        truth: Mapping[str, bool] | None = None,
        listing: Mapping[str, Any] | None = None,
        attributes: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> SnapshotRow:
        """Append one listing, an hour after the last; return its row."""
        number, digests = len(self.rows), []
        if image is not None:
            data = image if isinstance(image, bytes) else jpeg(image)
            digests.append(hashlib.sha256(data).hexdigest())
            self.blobs[digests[0]] = data
        submission = Submission(
            submission_id=f"u{number}",
            listing=Listing(
                listing_id=f"l{number}", seller_id=seller, description=text, **(listing or {})
            ),
            image_digests=tuple(digests),
            submitted_at=START + timedelta(hours=number),
            attributes=dict(attributes or {}),
        )
        truth = {"weapons": False, "spam": False} if truth is None else truth
        self.rows.append(SnapshotRow(submission, None, truth, **facts))
        return self.rows[-1]

    def hashed(self, rows: Iterator[SnapshotRow] | None = None) -> Iterator[SnapshotRow]:
        """Yield rows, all of them if None, with the hashes of their photos."""
        return hashed_rows(iter(self.rows) if rows is None else rows, self.blobs.__getitem__)

    def golden(self, root: Path, rules: GoldenRules = RULES) -> GoldenSet:
        """Return version 1 of a golden set of these rows."""
        return build_golden(
            root,
            lambda: self.rows,
            rules,
            policy_ids=POLICIES,
            as_of=AS_OF,
            hashed=self.hashed,
        )

    def images(self, tower: Path, folder: Path) -> ImageCopies:
        """Return the search for altered photos of this world."""
        cache = EmbeddingCache(folder / "embeddings.sqlite")
        return ImageCopies(ImageEncoder(tower), cache, self.blobs.__getitem__)
