"""What a marketplace has before it has a model: a list of words, and hashes of known bad images.

Every model is reported beside it. Axes: N rows, P policies, H known hashes, each four words of 64 bits.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidListing
from moderation.image import decode, hamming, pdq
from moderation.pdq import MAX_DISTANCE, MIN_QUALITY
from moderation.policy import PolicyFile
from moderation.snapshot import Snapshot
from moderation.text import NgramText, ngram_texts, normalise

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

_HASH_BITS: Final = 256
_MATCH_BONUS: Final = 4.0
"""A known bad image says more than any single word."""

_COLUMNS: Final = ("title", "description", "image_digests")
_UNREAD: Final = NgramText("", "", ())
_NO_HASHES: Final = np.zeros((0, 4), np.uint64)


def keyword_scores(texts: Iterable[NgramText], policies: PolicyFile) -> Floats:
    """Return how many distinct keywords of each policy a listing holds.

    Args:
        texts: of each listing, by `ngram_texts`; a keyword counts once if either holds it.
        policies: their keywords, matched as whole words.
    """
    patterns = [_pattern(policy.keywords) for policy in policies.policies]
    rows = [
        [
            0
            if pattern is None
            else len({*pattern.findall(text.normalised), *pattern.findall(text.folded)})
            for pattern in patterns
        ]
        for text in texts
    ]
    return np.array(rows, np.float64).reshape(-1, len(patterns))


def hash_scores(
    hashes_N: Sequence[Hashes], known_P: Sequence[Hashes], *, max_distance: int = MAX_DISTANCE
) -> Floats:
    """Return for each row and policy how near its nearest image is to a known bad one.

    Args:
        hashes_N: per row, the hashes (K, 4) of its images; none where there is no image.
        known_P: per policy, the hashes (H, 4) of images of violations known before.
        max_distance: bits beyond which two images count as different.

    Returns:
        nearness_NP: from 1 (the same) down, 0 without a match.
    """
    nearness_NP = np.zeros((len(hashes_N), len(known_P)))
    for column, known_H4 in enumerate(known_P):
        for row, images_K4 in enumerate(hashes_N):
            if len(images_K4) and len(known_H4):
                distance = int(hamming(images_K4[:, None], known_H4[None]).min())
                if distance <= max_distance:
                    nearness_NP[row, column] = 1 - distance / _HASH_BITS
    return nearness_NP


def baseline_scores(
    snapshot: Snapshot, policies: PolicyFile, read_blob: Callable[[str], bytes]
) -> Floats:
    """Return the score of keywords and hash matches together, for the test rows of a snapshot.

    The known bad images are those of every violation in an earlier role. Images are decoded one
    batch at a time; one that cannot be decoded, or says too little for a hash, matches nothing.

    Args:
        snapshot: rows in order.
        policies: with the keywords.
        read_blob: gives an image's bytes by its digest.

    Returns:
        score_NP; NaN for rows of another role than `test`.
    """
    truth_NP, is_test_N = snapshot.truth_NP(), snapshot.role == "test"
    needed_N = is_test_N | (truth_NP == 1).any(axis=1)
    hashes_N: list[Hashes] = []
    texts: list[NgramText] = []
    for batch in snapshot.batches(list(_COLUMNS)):
        for record in batch.to_pylist():
            row = len(hashes_N)
            digests = record["image_digests"] if needed_N[row] else []
            hashes_N.append(_hashes(digests, read_blob))
            texts.append(
                ngram_texts(record["title"], record["description"]) if is_test_N[row] else _UNREAD
            )
    known_P = [
        _stack([hashes_N[row] for row in np.flatnonzero((truth_N == 1) & ~is_test_N)])
        for truth_N in truth_NP.T
    ]
    score_NP = np.full(truth_NP.shape, np.nan)
    rows = np.flatnonzero(is_test_N)
    nearness_TP = hash_scores([hashes_N[row] for row in rows], known_P)
    score_NP[rows] = keyword_scores([texts[row] for row in rows], policies)
    score_NP[rows] += _MATCH_BONUS * nearness_TP
    return score_NP


def _pattern(keywords: Sequence[str]) -> re.Pattern[str] | None:
    """Return one pattern of whole words, spelt as the normalisation spells them."""
    words = {normalise(word).normalised for word in keywords} - {""}
    if not words:
        return None
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def _hashes(digests: Sequence[str], read_blob: Callable[[str], bytes]) -> Hashes:
    found = []
    for digest in digests:
        try:
            words, quality = pdq(decode(read_blob(digest)))
        except InvalidListing:
            continue
        if quality >= MIN_QUALITY:
            found.append(words)
    return _stack([np.array(found, np.uint64).reshape(-1, 4)])


def _stack(parts: Sequence[Hashes]) -> Hashes:
    return np.unique(np.concatenate([_NO_HASHES, *parts]), axis=0)
