"""The figures of a load run, and the limits that it is held to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moderation.errors import PermanentError
from serving.load.record import DECIDED, Ended, Record

# Per mille, so that a rank is whole-numbered arithmetic.
_QUANTILES: Final = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}

LIMITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(_QUANTILES, "ms, over all uploads that were due"),
    "errors": "share of the uploads sent that got no decision",
    "timeouts": "share of the uploads sent",
    "fallbacks": "share of the decisions",
    "dropped": "share of the uploads due",
    "late": "ms, p99 of the sender's lateness",
}
"""What a limit may be set on, and its unit."""

_ERRORS: Final = {
    Ended.TIMED_OUT: "timed out",
    Ended.NOT_CONNECTED: "not connected",
    Ended.BROKEN_OFF: "connection broken off",
    Ended.UNREADABLE: "answer without a decision",
    Ended.IN_FLIGHT: "given up while waiting",
}

# From this share of a latency on, the sender's lateness says more about the sender than is left unsaid.
_LATE_SHARE: Final = 0.1
_LATE_MS: Final = 5.0

Percentiles = Mapping[str, float | None]
"""Milliseconds by quantile; None where that many uploads got no decision at all."""


@dataclass(frozen=True)
class Figures:
    """What the uploads came to that were due after the warm-up."""

    rate: float
    """Asked for, per second."""

    sent_rate: float
    decided_rate: float
    """Per second, until the last answer."""

    seconds: float
    """How long uploads were due."""

    due: int
    sent: int
    dropped: int
    """By the sender, at its bound of uploads in flight."""

    decided: int
    fallbacks: int
    """Decisions without a model."""

    statuses: Mapping[int, int]
    """Answers by HTTP status."""

    errors: Mapping[str, int]
    """Uploads without an answer, by what happened."""

    tiers: Mapping[str, int]
    peak_in_flight: int
    decided_ms: Percentiles
    """Latency of decisions."""

    due_ms: Percentiles
    """The same over all uploads that were due: what got no decision counts as one that never came."""

    late_ms: Percentiles
    """How late the sender sent."""

    was_stopped: bool

    @property
    def shares(self) -> Mapping[str, float | None]:
        """Shares that can be limited; None where there is nothing to take one of."""
        return {
            "errors": _share(self.sent - self.decided, self.sent),
            "timeouts": _share(self.errors.get(_ERRORS[Ended.TIMED_OUT], 0), self.sent),
            "fallbacks": _share(self.fallbacks, self.decided),
            "dropped": _share(self.dropped, self.due),
        }

    def row(self) -> dict[str, Any]:
        """Return the run as one flat row of a benchmark's table; milliseconds unless named otherwise."""
        row: dict[str, Any] = {
            "rate asked": self.rate,
            "rate sent": self.sent_rate,
            "rate decided": self.decided_rate,
            "seconds": self.seconds,
            "due": self.due,
            "sent": self.sent,
            "dropped by the sender": self.dropped,
            "decided": self.decided,
            "fallbacks": self.fallbacks,
            "peak in flight": self.peak_in_flight,
        }
        row |= {f"status {status}": count for status, count in self.statuses.items()}
        row |= dict(self.errors)
        row |= {f"tier {tier}": count for tier, count in self.tiers.items()}
        row |= {f"decided {name}": value for name, value in self.decided_ms.items()}
        row |= {f"due {name}": value for name, value in self.due_ms.items()}
        return row | {f"late {name}": value for name, value in self.late_ms.items()}

    def notes(self) -> list[str]:
        """Return what a reader must know before blaming the gateway."""
        notes = []
        if self.dropped:
            notes.append(
                f"{self.dropped:,} uploads were dropped by the sender, at its bound of uploads in flight: "
                "raise --max-in-flight, or the gateway is slower than this rate"
            )
        late, latency = self.late_ms["p99"], self.decided_ms["p99"]
        if late is not None and late > max(_LATE_MS, _LATE_SHARE * (latency or 0.0)):
            notes.append(
                f"the sender itself was late, p99 {late:.1f} ms, and latencies hold that: "
                "give it a core of its own, or lower the rate"
            )
        if self.was_stopped:
            notes.append(f"stopped after {self.seconds:.1f} s that count")
        return notes


@dataclass(frozen=True)
class Verdict:
    """One limit, what was measured, and whether it was kept; of the shape of a benchmark's target."""

    name: str
    goal: str
    value: float | None
    ok: bool


def figures_of(record: Record) -> Figures:
    """Return the figures of a run, without its warm-up and without what was not due yet when it was stopped."""
    schedule = record.schedule
    counted = (schedule.planned_s >= schedule.warmup_s) & (record.outcome != Ended.NOT_DUE)
    outcome, latency_ms = record.outcome[counted], record.latency_ms[counted]
    is_decided = outcome == DECIDED
    decided, dropped = int(is_decided.sum()), int((outcome == Ended.DROPPED).sum())
    ended_s = schedule.warmup_s + schedule.duration_s
    if record.stopped_s is not None:
        ended_s = min(record.stopped_s, ended_s)
    seconds = max(ended_s - schedule.warmup_s, 0.0)
    values, counts = np.unique(outcome, return_counts=True)
    by_outcome = dict(zip(values.tolist(), counts.tolist(), strict=True))
    due_ms = np.where(is_decided, latency_ms, np.inf)
    return Figures(
        rate=schedule.rate,
        sent_rate=_rate(outcome.size - dropped, seconds),
        decided_rate=_rate(decided, max(seconds, record.seconds - schedule.warmup_s)),
        seconds=seconds,
        due=outcome.size,
        sent=outcome.size - dropped,
        dropped=dropped,
        decided=decided,
        fallbacks=record.num_fallbacks,
        statuses={code: count for code, count in by_outcome.items() if code > 0},
        errors={_ERRORS[kind]: by_outcome[kind] for kind in _ERRORS if kind in by_outcome},
        tiers=dict(record.tiers.most_common()),
        peak_in_flight=record.peak_in_flight,
        decided_ms=percentiles(latency_ms[is_decided]),
        due_ms=percentiles(due_ms),
        late_ms=percentiles(record.late_ms[counted & ~np.isnan(record.late_ms)]),
        was_stopped=record.stopped_s is not None,
    )


def percentiles(values: NDArray[np.floating[Any]]) -> Percentiles:
    """Return the exact quantiles of `values`, each one of them; None where it is infinite or there is none.

    >>> percentiles(np.arange(1.0, 1001.0))
    {'p50': 500.0, 'p90': 900.0, 'p99': 990.0, 'p99.9': 999.0, 'max': 1000.0}
    """
    ordered = np.sort(values)
    found: dict[str, float | None] = {}
    for name, per_mille in _QUANTILES.items():
        rank = -(-ordered.size * per_mille // 1000)
        value = float(ordered[rank - 1]) if ordered.size else np.inf
        found[name] = value if np.isfinite(value) else None
    return found


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Return limits from `name=value` texts.

    Raises:
        PermanentError: naming the known limits, if one is unknown, or its value is no number from 0 on.
    """
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = -1.0
        if name not in LIMITS or not 0 <= limits[name] < np.inf:
            known = "; ".join(f"{known} ({unit})" for known, unit in LIMITS.items())
            raise PermanentError(f"--limit {text}: write name=number; limits are {known}")
    return limits


def judge(figures: Figures, limits: Mapping[str, float]) -> list[Verdict]:
    """Return whether each limit was kept; what could not be measured, or never came, was not."""
    measured = {**figures.due_ms, **figures.shares, "late": figures.late_ms["p99"]}
    verdicts = []
    for name, limit in limits.items():
        value = measured[name]
        is_kept = value is not None and value <= limit
        verdicts.append(Verdict(name, f"<= {limit:g} ({LIMITS[name]})", value, is_kept))
    return verdicts


def status_name(status: int) -> str:
    """Return an HTTP status for people.

    >>> status_name(503)
    '503 Service Unavailable'
    """
    known = {int(one) for one in HTTPStatus}
    return f"{status} {HTTPStatus(status).phrase}" if status in known else str(status)


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
