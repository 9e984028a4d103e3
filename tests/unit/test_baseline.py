"""The baseline: words and known images, matched as an evader hopes they are not."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moderation.evaluation.baseline import baseline_scores, hash_scores, keyword_scores
from moderation.features import FEATURE_NAMES
from moderation.image import pdq
from moderation.listing import Listing, Submission
from moderation.snapshot import SnapshotRow, SnapshotWriter
from moderation.text import ngram_texts
from tests.signal_world import policies

WEAPONS, COUNTERFEIT = 0, 1


def _scores(*titles: str) -> npt.NDArray[np.float64]:
    return keyword_scores([ngram_texts(title, "") for title in titles], policies())


def test_keywords_count_distinct_words() -> None:
    assert _scores("pistol and ammo", "pistol pistol", "teapot")[:, WEAPONS].tolist() == [2, 1, 0]


def test_keywords_are_found_when_obfuscated() -> None:
    assert (_scores("g1ock", "G.L.O.C.K", "gl\u200bock", "\u0261lock")[:, WEAPONS] > 0).all()


def test_keywords_match_whole_words_only() -> None:
    assert _scores("copyright of the paper copyist")[:, COUNTERFEIT].tolist() == [0]


def test_keywords_of_punctuation_are_found() -> None:
    assert _scores("bag 1:1 quality")[:, COUNTERFEIT].tolist() == [1]


def _picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC)


def test_hash_finds_a_copy_and_no_stranger() -> None:
    known = pdq(_picture(1))[0][None]
    smaller = _picture(1).resize((256, 256))
    rows = [pdq(smaller)[0][None], pdq(_picture(2))[0][None], np.zeros((0, 4), np.uint64)]
    nearness = hash_scores(rows, [known, np.zeros((0, 4), np.uint64)])
    assert nearness[0, 0] > 0.85
    assert nearness[1:, 0].tolist() == [0, 0]
    assert nearness[:, 1].tolist() == [0, 0, 0]


def _bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_baseline_learns_hashes_from_earlier_roles_only(tmp_path: Path) -> None:
    blobs = {"a" * 64: _bytes(_picture(1)), "b" * 64: _bytes(_picture(2)), "c" * 64: b"no image"}
    start = datetime(2026, 1, 1, tzinfo=UTC)
    writer = SnapshotWriter(tmp_path, policies().ids, start + timedelta(days=9))
    # name, split, digests, title, whether it is a weapon
    rows = [
        ("t0", "train", ["a" * 64], "iron thing", True),
        ("t1", "train", ["c" * 64], "teapot", False),
        ("e0", "test", ["b" * 64], "glock for sale", True),
        ("e1", "test", ["c" * 64], "blanket", False),
    ]
    for day, (name, split, digests, title, violates) in enumerate(rows):
        listing = Listing(listing_id=name, title=title)
        submission = Submission(
            submission_id=name,
            listing=listing,
            image_digests=tuple(digests),
            submitted_at=start + timedelta(hours=day),
            attributes={"split": split},
        )
        truth = dict.fromkeys(policies().ids, False) | {policies().ids[WEAPONS]: violates}
        writer.add(SnapshotRow(submission, np.zeros(len(FEATURE_NAMES), np.float32), truth))
    snapshot = writer.finish()
    near = {**blobs, "b" * 64: _bytes(_picture(1).resize((300, 300)))}
    score_NP = baseline_scores(snapshot, policies(), near.__getitem__)
    is_test = snapshot.role == "test"
    assert np.isnan(score_NP[~is_test]).all()
    ids = snapshot.column("submission_id")
    assert score_NP[list(ids).index("e0"), WEAPONS] > 4.5  # a word and a known image
    assert score_NP[list(ids).index("e1"), WEAPONS] == 0
