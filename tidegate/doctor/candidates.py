"""The candidates of known quality: which gates must hold each one back. Every one is a real bundle in a folder.

Those that need training are trained on the early rows; the others are the good bundle with one part changed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from components.home import Home
from moderation.snapshot import SnapshotRow
from tidegate.doctor import surgery
from tidegate.doctor.goods import LANGUAGES
from tidegate.doctor.slowing import slower
from tidegate.doctor.surgery import Change, Lesson, operate
from tidegate.doctor.workshop import Workshop

GOOD: Final = "good"
TIE: Final = "the champion again"

_BROKEN: Final = LANGUAGES[-1]
_NOISE: Final = 0.45
_TOO_LARGE_MIB: Final = 620
_STRONG: Final = ("block", "suspend")
_SUNK_TIER: Final = 2e-3
_NEARLY_SURE: Final = 1 - 1e-9


@dataclass(frozen=True)
class Entry:
    """With what a candidate enters."""

    release: Path
    champion: Path
    table: Path
    home: Home


@dataclass(frozen=True)
class Candidate:
    """One candidate and what must become of it."""

    name: str
    says: str
    """What is wrong with it, for people."""

    enter: Callable[[Workshop, str], Entry]
    held_by: tuple[str, ...] = ()
    """Gates that must hold it back; none for the good one, which all must pass."""

    held_by_these_alone: bool = False
    """Whether every other gate must pass it."""

    objective: str | None = None
    """The declared objective, where it is not the contract's."""

    proved_as: str | None = None
    """The candidate whose proof serves this one too: the same bundles in the same home."""


def _good(shop: Workshop, _: str) -> Entry:
    return Entry(shop.good().folder, shop.champion().folder, shop.late.table, shop.home)


def _tie(shop: Workshop, name: str) -> Entry:
    """Enter the good bundle against itself: a file that nobody reads makes it another bundle with the same answers."""
    entry = _changed(lambda _: surgery.padded(1))(shop, "tie")
    return replace(entry, champion=shop.good().folder)


def _changed(change: Callable[[Workshop], Change]) -> Callable[[Workshop, str], Entry]:
    def enter(shop: Workshop, name: str) -> Entry:
        folder = shop.folder / "changed" / name
        if not folder.exists():
            operate(shop.good(), folder, change(shop))
        return replace(_good(shop, name), release=folder)

    return enter


def _as_is(change: Change) -> Callable[[Workshop, str], Entry]:
    return _changed(lambda _: change)


def _taught(
    tell: Callable[[Lesson], npt.NDArray[np.int8]], *deaf: str
) -> Callable[[Workshop, str], Entry]:
    """Teach the text specialist anew; members that are made deaf no longer make up for it."""

    def change(shop: Workshop) -> Change:
        taught = surgery.text_specialist(shop.late.table, tell)
        return surgery.both(taught, surgery.deaf_to(*deaf)) if deaf else taught

    return _changed(change)


def _retrained(
    retell: Callable[[tuple[str, ...], SnapshotRow], SnapshotRow],
) -> Callable[[Workshop, str], Entry]:
    def enter(shop: Workshop, name: str) -> Entry:
        policies = shop.policy_ids
        run = shop.retrained(name, lambda row: _in_training(row, lambda r: retell(policies, r)))
        return replace(_good(shop, name), release=run.release, table=run.table)

    return enter


def _in_training(row: SnapshotRow, retell: Callable[[SnapshotRow], SnapshotRow]) -> SnapshotRow:
    """Return the row as told where it trains; what is judged on stays true."""
    return retell(row) if row.submission.attributes.get("split") == "train" else row


def _noisy(_: tuple[str, ...], row: SnapshotRow) -> SnapshotRow:
    digest = hashlib.sha256(row.submission.submission_id.encode()).digest()
    told = {
        policy: violates != (digest[column] < 256 * _NOISE)
        for column, (policy, violates) in enumerate(row.truth.items())
    }
    return replace(row, truth=told)


def _unseen_in_one_language(_: tuple[str, ...], row: SnapshotRow) -> SnapshotRow:
    if row.submission.listing.language != _BROKEN:
        return row
    return replace(row, truth=dict.fromkeys(row.truth, False))


def _swapped(policies: tuple[str, ...], row: SnapshotRow) -> SnapshotRow:
    following = dict(zip(policies, (*policies[1:], policies[0]), strict=True))
    return replace(row, truth={policy: row.truth[following[policy]] for policy in row.truth})


def _leaked(shop: Workshop, name: str) -> Entry:
    unguarded = shop.variant("no-golden", "golden")
    run = shop.retrained(name, lambda row: row, unguarded)
    return replace(_good(shop, name), release=run.release, table=run.table)


def _without_ledger(shop: Workshop, name: str) -> Entry:
    return replace(_good(shop, name), home=shop.variant(name, shop.home.ledger.name))


def _after_capped_day(shop: Workshop, name: str) -> Entry:
    return replace(_good(shop, name), home=shop.capped_yesterday(name, "block"))


def _without_region(shop: Workshop, name: str) -> Entry:
    home = shop.variant(name, shop.home.golden.name)
    with shop.once(f"golden-{name}") as is_new:
        if is_new:
            shop.draw_golden(home, _nowhere)
    return replace(_good(shop, name), home=home)


def _nowhere(row: SnapshotRow) -> SnapshotRow:
    listing = row.submission.listing.model_copy(update={"region": None})
    return replace(row, submission=row.submission.model_copy(update={"listing": listing}))


def _against_one_language(lesson: Lesson) -> npt.NDArray[np.int8]:
    return np.where((lesson.language == _BROKEN)[:, None], 1, lesson.truth_NP).astype(np.int8)


def _against_tricks(lesson: Lesson) -> npt.NDArray[np.int8]:
    return np.where(lesson.is_evasive[:, None], 1, lesson.truth_NP).astype(np.int8)


def _fooled_by_tricks(lesson: Lesson) -> npt.NDArray[np.int8]:
    return np.where(lesson.is_evasive[:, None], 0, lesson.truth_NP).astype(np.int8)


CANDIDATES: Final[tuple[Candidate, ...]] = (
    Candidate(GOOD, "trained on everything", _good),
    Candidate(
        TIE,
        "no better than the champion: it gives the same answers",
        _tie,
        ("better-on-golden",),
        held_by_these_alone=True,
    ),
    Candidate(
        "the champion again, fresh truth decides",
        "the same, where the declared objective is truth that arrived after both were trained",
        _tie,
        ("better-on-fresh-truth",),
        held_by_these_alone=True,
        objective="better-on-fresh-truth",
        proved_as=TIE,
    ),
    Candidate(
        "good, fresh truth decides",
        "trained on everything, where the declared objective is fresh truth",
        _good,
        objective="better-on-fresh-truth",
        proved_as=GOOD,
    ),
    Candidate(
        "noisy truth",
        "45 % of what it was taught is wrong",
        _retrained(_noisy),
        ("golden-average-precision", "golden-recall-at-block", "not-worse-on-golden"),
    ),
    Candidate(
        "flipped class",
        "taught each policy's violations as those of another",
        _retrained(_swapped),
        (
            "golden-average-precision",
            "golden-recall-at-block",
            "golden-recall-at-suspend",
            "not-worse-on-golden",
            "better-on-golden",
            "tier-review",
        ),
    ),
    Candidate("leaked golden set", "trained on the golden set too", _leaked, ("no-leak",)),
    Candidate(
        "dropped modality",
        "blind to photos",
        _as_is(surgery.deaf_to("fusion", "image")),
        ("attacks-worst-recall", "attacks-worst-recall-by-policy", "not-worse-on-golden"),
    ),
    Candidate(
        "one language broken",
        f"taught by reviewers who saw no violation in {_BROKEN}",
        _retrained(_unseen_in_one_language),
        ("not-worse-in-any-language", "fair-true-positives", "replay-by-segment-down"),
    ),
    Candidate(
        "one language suspected",
        f"suspects whoever writes {_BROKEN}",
        _taught(_against_one_language),
        (
            "fair-false-positives",
            "fair-intersections",
            "calibration-by-slice-high",
            "replay-by-segment",
        ),
    ),
    Candidate(
        "obfuscation suspected",
        "takes a hidden letter for guilt",
        _taught(_against_tricks),
        ("attacks-worst-false-positives", "attacks-mean-false-positives"),
    ),
    Candidate(
        "fooled by evasion",
        "takes a hidden letter for innocence",
        _taught(_fooled_by_tricks, "fusion"),
        ("not-worse-on-evasion", "attacks-mean-recall"),
    ),
    Candidate(
        "deaf and blind",
        "reads neither photos nor words, and suspects everyone",
        _changed(
            lambda _: surgery.both(
                surgery.deaf_to("fusion", "image", "text", "ngram"), surgery.shifted(6.0)
            )
        ),
        ("attacks-white-box-works", "golden-average-precision"),
    ),
    Candidate(
        "overconfident", "log-odds times 3", _as_is(surgery.steeper(3)), ("calibration-slope-low",)
    ),
    Candidate(
        "underconfident",
        "log-odds divided by 3",
        _as_is(surgery.steeper(1 / 3)),
        ("calibration-slope-high",),
    ),
    Candidate(
        "too sure of innocence",
        "log-odds minus 17, with tiers that open all the same",
        _as_is(
            surgery.both(
                surgery.shifted(-17.0),
                surgery.thresholds(lambda tiers: dict.fromkeys(tiers, _SUNK_TIER)),
            )
        ),
        (
            "calibration-shift-high",
            "calibration-overall-low",
            "calibration-in-review-low",
            "calibration-by-slice-low",
        ),
    ),
    Candidate(
        "too sure of guilt",
        "log-odds plus 6",
        _as_is(surgery.shifted(6.0)),
        (
            "calibration-shift-low",
            "calibration-overall-high",
            "calibration-in-review-high",
            "calibration-by-slice-high",
        ),
    ),
    Candidate(
        "lowered thresholds",
        "every tier opens at one in ten thousand",
        _as_is(surgery.thresholds(lambda tiers: dict.fromkeys(tiers, 1e-4))),
        (
            "tier-block",
            "tier-suspend",
            "review-volume",
            "replay-shift-up",
        ),
    ),
    Candidate(
        "unreachable tiers",
        "sends to review at a certainty that it never has, and blocks almost as late",
        _as_is(
            surgery.thresholds(
                lambda tiers: {tier: _NEARLY_SURE if tier in _STRONG else 1.0 for tier in tiers}
            )
        ),
        ("tiers-reachable", "replay-shift-down"),
    ),
    Candidate(
        "prefilter opened wide",
        "lets go whoever is no new seller, whatever the behaviour",
        _as_is(surgery.prefilter_raised),
        ("prefilter-recall",),
        held_by_these_alone=True,
    ),
    Candidate(
        "newly blocking",
        "as good, but yesterday nothing was blocked: every block would be a new one",
        _after_capped_day,
        ("replay-shift-block",),
        held_by_these_alone=True,
    ),
    Candidate(
        "missing metric",
        "proved where no traffic was recorded",
        _without_ledger,
        (
            "replay-shift-up",
            "replay-shift-block",
            "replay-shift-down",
            "replay-by-segment",
            "replay-by-segment-down",
        ),
    ),
    Candidate(
        "empty slice",
        "proved on a golden set that names no region",
        _without_region,
        ("fair-true-positives", "fair-false-positives"),
    ),
    Candidate(
        "slow and too large",
        f"takes long over some listings, and {_TOO_LARGE_MIB} MiB",
        _as_is(surgery.both(slower, surgery.padded(_TOO_LARGE_MIB))),
        ("cost-latency", "cost-latency-ratio", "cost-size", "cost-size-growth"),
    ),
)


IN_EVERY_WORLD: Final = (GOOD, TIE, "noisy truth", "one language broken")
"""Candidates that are proved in further worlds too: the full path under other seeds."""
