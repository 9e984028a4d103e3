"""Training-serving skew: what decisions used, compared value by value with what the history says was known.

N decisions, F features. A value that serving used may differ for one honest reason: it was read at another moment than
the upload's. Mostly the stream had not come as far; now and then it came further while the decision was being made.
What it would have been with what the stream had come to is computed as well; a value that agrees with neither is skew.
A stream writes rows before it says how far it has come, and an event is dated before it is in the ledger, so what the
stream had come to may be anything from a little before there to the decision: all of it is tried.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featurestore.history import behaviour_at, known_between
from moderation.decision import SignalStatus
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission

Floats = npt.NDArray[np.float32]

_MAX_EXAMPLES: Final = 5
_MAX_TRIED: Final = 1_000
_ON_ITS_WAY: Final = timedelta(seconds=5)
"""An event is that long between its date and the ledger, at most."""


@dataclass(frozen=True)
class Used:
    """The behaviour that one decision used."""

    trace_id: str
    submission: Submission
    behaviour_F: Floats
    """NaN where it had no value."""

    faulty_F: npt.NDArray[np.bool_]
    """Where it had none because something was stale or could not be read."""

    through: datetime | None
    """Everything that was known by then was in it; None where nothing could be read."""

    decided_at: datetime
    """Nothing that became known later was."""

    @classmethod
    def of(cls, submission: Submission, decision: dict[str, Any]) -> "Used":
        """Return what a recorded decision, as JSON, used."""
        found = {one["name"]: one for one in decision["features"]}
        used = [found.get(name, {"value": None, "status": "missing"}) for name in FEATURE_NAMES]
        values = [np.nan if one["value"] is None else one["value"] for one in used]
        through = decision.get("features_through")
        return cls(
            decision["trace_id"],
            submission,
            np.array(values, np.float32),
            np.array([one["status"] == SignalStatus.ERROR for one in used]),
            datetime.fromisoformat(through) if through else None,
            datetime.fromisoformat(decision["decided_at"]),
        )


@dataclass(frozen=True)
class FeatureSkew:
    """How one feature compares over all decisions; every decision is in exactly one of the counts."""

    feature: str
    equal: int
    lagging: int
    """Differ, and are what was known to the stream at another moment."""

    unread: int
    """Stale or unreadable when it was asked for; the decision says so."""

    skewed: int
    """Differ in value."""

    missing_in_serving: int
    """Serving had no value where the history has one."""

    missing_in_history: int
    """Serving had a value where the history has none."""

    largest: float
    """Largest difference of two values among `skewed`; 0 where there is none."""

    examples: tuple[str, ...]
    """Traces of decisions that differ without an honest reason."""

    @property
    def differing(self) -> int:
        """Decisions that differ without an honest reason."""
        return self.skewed + self.missing_in_serving + self.missing_in_history


def lagging(folder: Path, used: Sequence[Used], known_NF: Floats) -> Floats:
    """Return what each decision would have used with what the stream had come to, lagging_NF.

    Args:
        folder: of the feature store.
        used: by N decisions.
        known_NF: what was known just before each upload.
    """
    submissions, through = [one.submission for one in used], [one.through for one in used]
    lagging_NF = behaviour_at(folder, submissions, known_by=through)
    for n, one in enumerate(used):
        if one.through is None or _explains(one, known_NF[n], lagging_NF[n]):
            continue
        times = known_between(folder, one.submission, one.through - _ON_ITS_WAY, one.decided_at)
        times = times[:_MAX_TRIED]
        tried = behaviour_at(folder, [one.submission] * len(times), known_by=times)
        lagging_NF[n] = next(
            (then_F for then_F in tried if _explains(one, known_NF[n], then_F)), lagging_NF[n]
        )
    return lagging_NF


def _explains(one: Used, known_F: Floats, then_F: Floats) -> bool:
    return bool(
        (one.faulty_F | _same(one.behaviour_F, known_F) | _same(one.behaviour_F, then_F)).all()
    )


def compare(used: Sequence[Used], known_NF: Floats, lagging_NF: Floats) -> list[FeatureSkew]:
    """Return how each feature compares.

    Args:
        used: by N decisions.
        known_NF: what was known just before each upload.
        lagging_NF: of that, what was known to the stream when serving read it.
    """
    shape = (len(used), len(FEATURE_NAMES))
    used_NF = np.array([one.behaviour_F for one in used], np.float32).reshape(shape)
    faulty_NF = np.array([one.faulty_F for one in used], bool).reshape(shape)
    return [
        _of_feature(used, name, used_NF[:, f], faulty_NF[:, f], known_NF[:, f], lagging_NF[:, f])
        for f, name in enumerate(FEATURE_NAMES)
    ]


def _of_feature(
    used: Sequence[Used],
    name: str,
    used_N: Floats,
    faulty_N: npt.NDArray[np.bool_],
    known_N: Floats,
    lagging_N: Floats,
) -> FeatureSkew:
    equal_N = ~faulty_N & _same(used_N, known_N)
    late_N = ~faulty_N & ~equal_N & _same(used_N, lagging_N)
    wrong_N = ~faulty_N & ~equal_N & ~late_N
    lost_N, extra_N = wrong_N & np.isnan(used_N), wrong_N & np.isnan(known_N)
    both_N = wrong_N & ~lost_N & ~extra_N
    gaps = np.abs(used_N[both_N].astype(np.float64) - known_N[both_N])
    return FeatureSkew(
        feature=name,
        equal=int(equal_N.sum()),
        lagging=int(late_N.sum()),
        unread=int(faulty_N.sum()),
        skewed=int(both_N.sum()),
        missing_in_serving=int(lost_N.sum()),
        missing_in_history=int(extra_N.sum()),
        largest=float(gaps.max(initial=0.0)),
        examples=tuple(used[n].trace_id for n in np.flatnonzero(wrong_N)[:_MAX_EXAMPLES]),
    )


def _same(first_N: Floats, second_N: Floats) -> npt.NDArray[np.bool_]:
    is_same_N: npt.NDArray[np.bool_] = first_N == second_N
    return is_same_N | (np.isnan(first_N) & np.isnan(second_N))


@dataclass(frozen=True)
class Lag:
    """How far the stream lay behind the uploads that were decided."""

    median_s: float | None
    """None where nothing could be read."""

    largest_s: float | None

    @classmethod
    def of(cls, used: Sequence[Used]) -> "Lag":
        """Return the lag of some decisions."""
        lags_s = [
            max(0.0, (one.submission.submitted_at - one.through).total_seconds())
            for one in used
            if one.through
        ]
        return cls(float(np.median(lags_s)), max(lags_s)) if lags_s else cls(None, None)

    @property
    def said(self) -> str:
        """The lag in words."""
        if self.median_s is None:
            return "No decision could read the feature store."
        return f"The stream lay {self.median_s:.1f} s behind in the median, {self.largest_s:.1f} s at most."


def as_record(rows: Sequence[FeatureSkew], num_decisions: int, lag: Lag) -> dict[str, Any]:
    """Return the report as plain values."""
    features = [asdict(one) for one in rows]
    return {"decisions": num_decisions, "lag": asdict(lag), "features": features}


def verdict_on(rows: Sequence[FeatureSkew], num_decisions: int) -> str:
    """Return in one sentence how many values are what was known, and what the others are."""
    if not num_decisions:
        return "Nothing was decided, so nothing can be compared."
    equal, late = (sum(one.equal for one in rows), sum(one.lagging for one in rows))
    unread, differing = sum(one.unread for one in rows), sum(one.differing for one in rows)
    total = equal + late + unread + differing
    others = f"{late} lag behind the stream, {unread} could not be read"
    return f"Of {total} values {equal} are what was known, {others}, **{differing} differ**."


def as_markdown(rows: Sequence[FeatureSkew], num_decisions: int, lag: Lag, day: str) -> str:
    """Return the report for people: what differs first."""
    lines = [
        f"# Training-serving skew, decisions before {day}",
        "",
        f"{num_decisions} decisions. {verdict_on(rows, num_decisions)} {lag.said}",
        "",
        "| feature | equal | lagging | stale or unreadable | other value | missing in serving | missing in history"
        " | largest gap | traces |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in sorted(rows, key=lambda row: -row.differing):
        traces = " ".join(one.examples)
        lines.append(
            f"| {one.feature} | {one.equal} | {one.lagging} | {one.unread} | {one.skewed} | {one.missing_in_serving}"
            f" | {one.missing_in_history} | {one.largest:g} | {traces} |"
        )
    lines += [
        "",
        "*Lagging*: the stream had not come as far as the upload, or further; the value is what it had come to. "
        "Any other difference is skew: look at a trace with `tidegate replay <trace>`.",
    ]
    return "\n".join(lines) + "\n"
