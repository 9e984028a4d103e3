"""A table of signals with known truth, for tests of calibration, thresholds and reports."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from moderation.policy import PolicyFile, load_policies
from moderation.signals import SignalTable, as_words

POLICIES = Path("policies/marketplace.yaml")
NEGATIVE_WEIGHT = 12.0


def policies() -> PolicyFile:
    """Return the marketplace's policies, as they are."""
    return load_policies(POLICIES)


def signal_world(num_rows: int = 12_000, *, seed: int = 0, hardness: float = 1.0) -> SignalTable:
    """Return rows of all roles whose members see parts of what makes a listing violate.

    Negatives are thinned out and weighted; a tenth of the rows lacks images, a tenth text, a
    third behaviour; rows come in groups of one to six.
    """
    rng = np.random.default_rng(seed)
    num_policies = len(policies().ids)
    shape = (num_rows, num_policies)
    seen = {name: rng.normal(0, 2.0, shape) for name in ("image", "text", "behaviour")}
    log_odds_NP = 1.6 * (seen["image"] + seen["text"] + 0.4 * seen["behaviour"]) - 8.0
    truth_NP = (rng.random(shape) < 1 / (1 + np.exp(-log_odds_NP))).astype(np.int8)
    kept = truth_NP.any(axis=1) | (rng.random(num_rows) < 1 / NEGATIVE_WEIGHT)
    weight = np.where(truth_NP.any(axis=1), 1.0, NEGATIVE_WEIGHT)

    def member(*parts: str) -> npt.NDArray[np.float64]:
        evidence = sum((seen[part] for part in parts), np.zeros(shape))
        return 1.2 * evidence - 6.0 + rng.normal(0, hardness, shape)

    columns = {
        "image_NP": member("image"),
        "text_NP": member("text"),
        "ngram_NP": member("text"),
        "behaviour_NP": member("behaviour"),
        "fusion_both_NP": member("image", "text"),
        "fusion_image_NP": member("image"),
        "fusion_text_NP": member("text"),
    }
    _hide(columns, rng.random(num_rows) < 0.1, ("image_NP", "fusion_both_NP", "fusion_image_NP"))
    _hide(
        columns,
        rng.random(num_rows) < 0.1,
        ("text_NP", "ngram_NP", "fusion_both_NP", "fusion_text_NP"),
    )
    _hide(columns, rng.random(num_rows) < 0.33, ("behaviour_NP",))
    role = rng.choice(
        ["train", "tune", "meta", "solve", "test"], num_rows, p=[0.35, 0.05, 0.2, 0.15, 0.25]
    )
    group = np.repeat(np.arange(num_rows), rng.integers(1, 7, num_rows))[:num_rows]
    table = SignalTable(
        policies=policies().ids,
        submission_id=as_words([f"s{row}" for row in range(num_rows)]),
        role=as_words(role.tolist()),
        fold=np.where(role == "train", rng.integers(0, 4, num_rows), -1),
        group=group.astype(np.int64),
        weight=weight,
        truth_NP=truth_NP,
        num_images=np.where(np.isnan(columns["image_NP"][:, 0]), 0, rng.integers(1, 9, num_rows)),
        slices={
            "language": as_words(rng.choice(["en", "de", "ja"], num_rows).tolist()),
            "evasion": as_words(rng.choice(["none", "leet", "image_text"], num_rows).tolist()),
            "seller_seen": as_words(rng.choice(["seen", "unseen"], num_rows).tolist()),
        },
        **columns,
    )
    return table.take(kept)


def _hide(
    columns: dict[str, npt.NDArray[np.float64]],
    rows: npt.NDArray[np.bool_],
    names: tuple[str, ...],
) -> None:
    for name in names:
        columns[name][rows] = np.nan
