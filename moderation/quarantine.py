"""What keeps golden rows, and whatever resembles them, out of every later snapshot.

All versions count, retired groups too: bundles were judged on them, and may be compared on them again. N rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.duplicates import near_hash
from moderation.golden_set import GoldenSet, golden_versions
from moderation.image_copies import ImageCopies
from moderation.snapshot import StagedRows
from moderation.splitting import group_rows

REASONS: Final = ("golden", "seller", "group", "pdq", "text", "embedding")
"""Why a row is kept out, the first that holds: it is golden, of the same seller, tied to one, or a copy."""

Words = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Quarantine:
    """Every version of the golden set of a home."""

    versions: tuple[GoldenSet, ...]

    @classmethod
    def of(cls, root: Path) -> "Quarantine":
        """Return the quarantine of the golden sets below `root`; without any, nothing is kept out.

        Raises:
            InvalidSnapshot: if a version was altered or is gone.
        """
        return cls(tuple(golden_versions(root)))

    def bar(self, images: Callable[[], ImageCopies]) -> Callable[[StagedRows], Words] | None:
        """Return what tells a snapshot which rows to leave out; None where there is no golden set.

        Args:
            images: opens the search for altered photos; only called where there is something to search for.
        """
        if not self.versions:
            return None
        return lambda rows: self.reasons(rows, images())

    def reasons(self, rows: StagedRows, images: ImageCopies) -> Words:
        """Return per row why it is kept out, of `REASONS`; the empty word where it may stay."""
        why_N = np.full(len(rows.submission_ids), "", "<U16")
        for golden in self.versions:
            for reason, found_N in _found(rows, golden, images):
                why_N[found_N & (why_N == "")] = reason
        return why_N


def _found(
    rows: StagedRows, golden: GoldenSet, images: ImageCopies
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    items = set(golden.table.column("submission_id").tolist())
    firsts = {links[0] for links in golden.facts.links}
    prints = golden.table.fingerprints()
    hashed = near_hash(rows.prints.image_hash_I4, prints.image_hash_I4) >= 0
    is_hashed_N = np.zeros(len(rows.submission_ids), bool)
    is_hashed_N[rows.prints.image_row_I[hashed]] = True
    is_bare_N = rows.prints.num_images_N == 0
    texts = [
        golden.texts.copied(text, has_image=not is_bare) >= 0
        for text, is_bare in zip(rows.prints.text_N, is_bare_N.tolist(), strict=True)
    ]
    photos_G = golden.table.image_digests()
    return [
        ("golden", np.array([one in items for one in rows.submission_ids], bool)),
        ("seller", np.array([links[0] in firsts for links in rows.links], bool)),
        ("group", _linked(rows, golden)),
        ("pdq", is_hashed_N),
        ("text", np.array(texts, bool)),
        ("embedding", images.find(rows.image_digests, photos_G) >= 0),
    ]


def _linked(rows: StagedRows, golden: GoldenSet) -> npt.NDArray[np.bool_]:
    """Return the rows that are tied to a golden group over any number of steps."""
    group_M = group_rows([*rows.links, *golden.facts.links])
    num_rows = len(rows.links)
    is_linked_N: npt.NDArray[np.bool_] = np.isin(group_M[:num_rows], group_M[num_rows:])
    return is_linked_N
