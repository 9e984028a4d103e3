"""What a candidate costs: the latency of single listings, absolute and beside the champion's, and the size on disk.

K rounds, n listings; B resamples.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from scipy import stats

from moderation.gates.estimates import Estimate, Exact, Resampled, nothing, rows_needed
from moderation.gates.evidence import Costs, Floats
from moderation.gates.judging import Context, measure
from moderation.release import Gate

PERCENTILE: Final = 0.99
_MIB: Final = 2**20
_NOT_MEASURED: Final = "costs were not measured"
_CELLS: Final = 4_000_000


@dataclass(frozen=True)
class Percentile:
    """The 99th percentile of independent measurements, with bounds that hold for any distribution.

    Source:
        David and Nagaraja 2003, "Order Statistics", 7.1 (a percentile lies between two order statistics with a
        binomial probability).
    """

    values: Floats

    @cached_property
    def _sorted(self) -> Floats:
        return np.sort(self.values)

    @property
    def value(self) -> float:
        """The smallest measurement that 99 of 100 do not exceed."""
        return float(self._sorted[_place(len(self.values))])

    def low(self, confidence: float) -> float:
        """Return the lower bound; -inf with too few measurements."""
        num = len(self.values)
        rank = int(stats.binom.ppf(1 - confidence, num, PERCENTILE))
        return float(self._sorted[rank - 1]) if rank >= 1 else -math.inf

    def high(self, confidence: float) -> float:
        """Return the upper bound; inf with too few measurements: .99 at 95 % takes 299."""
        num = len(self.values)
        rank = int(stats.binom.ppf(confidence, num, PERCENTILE)) + 1
        return float(self._sorted[rank - 1]) if rank <= num else math.inf


@dataclass(frozen=True)
class Rounds:
    """The median over rounds of the 99th percentile and of its bounds, ms_Kn.

    A burst of another process spoils a round, and with it no median. What the bundle does itself, it does in all.
    """

    ms_Kn: Floats

    @property
    def value(self) -> float:
        """The percentile of the middle round."""
        return float(np.median([one.value for one in self._percentiles]))

    def low(self, confidence: float) -> float:
        """Return the lower bound."""
        return float(np.median([one.low(confidence) for one in self._percentiles]))

    def high(self, confidence: float) -> float:
        """Return the upper bound."""
        return float(np.median([one.high(confidence) for one in self._percentiles]))

    @cached_property
    def _percentiles(self) -> list[Percentile]:
        return [Percentile(ms_n) for ms_n in self.ms_Kn]


@dataclass(frozen=True)
class _OneRound:
    """The ratio of one round, its upper bound no lower than candidate's bound over champion's percentile."""

    resampled: Resampled
    both_2n: Floats

    def low(self, confidence: float) -> float:
        """Return the lower bound."""
        return self.resampled.low(confidence)

    def high(self, confidence: float) -> float:
        """Return the upper bound."""
        candidate, champion = (Percentile(ms_n) for ms_n in self.both_2n)
        return max(self.resampled.high(confidence), candidate.high(confidence) / champion.value)


def listings_needed(share: float, confidence: float) -> int:
    """Return the fewest measurements whose largest one bounds a percentile from above.

    >>> listings_needed(0.99, 0.95)
    299
    """
    return math.ceil(math.log(1 - confidence) / math.log(share))


@measure("latency_p99_ms")
def latency_p99_ms(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield one figure: the latency in milliseconds that 99 of 100 listings keep."""
    costs = context.evidence.costs
    least = listings_needed(PERCENTILE, gate.confidence)
    if costs is None or not costs.candidate_ms.size:
        yield nothing("", _NOT_MEASURED, needed=max(least, gate.min_rows))
        return
    spread = Rounds(np.atleast_2d(costs.candidate_ms))
    num, bound = spread.ms_Kn.shape[1], spread.high(gate.confidence)
    yield Estimate(
        of="",
        value=spread.value,
        spread=spread,
        rows=num,
        needed=least if num < least else _needed(num, bound, spread.value, gate),
        detail=_detail(costs),
    )


@measure("latency_p99_ratio")
def latency_p99_ratio(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield one figure: the candidate's 99th percentile over the champion's, on the same listings in turn.

    It is the median over rounds. Listings are resampled with all their latencies, of both, so that a listing that is
    slow for both cancels out and one that is slow in every round counts once. A few stalls among hundreds are too few
    for resamples to see: of a single round the upper bound is at least the candidate's own over the champion's figure.
    """
    costs = context.evidence.costs
    least = listings_needed(PERCENTILE, gate.confidence)
    if costs is None or costs.champion_ms is None or not costs.candidate_ms.size:
        yield nothing(
            "", f"{_NOT_MEASURED} beside the champion's", needed=max(least, gate.min_rows)
        )
        return
    if costs.champion_ms.shape != costs.candidate_ms.shape or not (costs.champion_ms > 0).all():
        yield nothing("", "latencies do not come in pairs", needed=max(least, gate.min_rows))
        return
    both_2Kn = np.stack([np.atleast_2d(one) for one in (costs.candidate_ms, costs.champion_ms)])
    num = both_2Kn.shape[2]
    value = float(_ratio(both_2Kn))
    resampled = Resampled(value, _ratios(both_2Kn, context))
    spread = resampled if both_2Kn.shape[1] > 1 else _OneRound(resampled, both_2Kn[:, 0])
    reached = rows_needed(num, resampled.error, gate.limit - value, gate.confidence)
    yield Estimate(
        of="",
        value=value,
        spread=spread,
        rows=num,
        needed=None if reached is None else max(reached, least),
        detail=_detail(costs),
    )


@measure("bundle_mib")
def bundle_mib(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield one figure: the size of the bundle in MiB; versus: champion gives how much larger it is."""
    costs = context.evidence.costs
    if costs is None:
        yield nothing("", _NOT_MEASURED)
        return
    size = costs.candidate_bytes / _MIB
    if gate.versus == "champion":
        if costs.champion_bytes is None:
            yield nothing("", "the champion's size was not measured")
            return
        size -= costs.champion_bytes / _MIB
    yield Estimate(of="", value=size, spread=Exact(size), rows=1, detail=_detail(costs))


def _ratios(both_2Kn: Floats, context: Context) -> Floats:
    """Return the ratio in each resample of listings."""
    _, rounds, num = both_2Kn.shape
    resamples = context.contract.risk.resamples
    rng = np.random.default_rng(context.seed)
    ratio_B, size = np.empty(resamples), max(1, _CELLS // (num * rounds))
    for begin in range(0, resamples, size):
        rows_Cn = rng.integers(0, num, (min(size, resamples - begin), num))
        ratio_B[begin : begin + size] = _ratio(both_2Kn[:, :, rows_Cn].swapaxes(1, 2))
    return ratio_B


def _ratio(both_2Kn: Floats) -> Floats:
    """Return the median over rounds of the ratio of percentiles; axes before the last two are kept."""
    place = _place(both_2Kn.shape[-1])
    candidate_K, champion_K = np.partition(both_2Kn, place, axis=-1)[..., place]
    ratio: Floats = np.median(candidate_K / champion_K, axis=-1)
    return ratio


def _place(num: int) -> int:
    """Return the place of the percentile among sorted measurements, from 0."""
    return math.ceil(PERCENTILE * num) - 1


def _needed(num: int, bound: float, value: float, gate: Gate) -> int | None:
    """Return the measurements that would bring the bound within the limit, its distance shrinking as a root."""
    error = (bound - value) / float(stats.norm.ppf(gate.confidence))
    return rows_needed(num, error, gate.limit - value, gate.confidence)


def _detail(costs: Costs) -> dict[str, float]:
    """Return the figures that a person asks for next."""
    found = {"median_ms": float(np.median(costs.candidate_ms))} if costs.candidate_ms.size else {}
    found["mib"] = costs.candidate_bytes / _MIB
    if costs.champion_ms is not None and costs.champion_ms.shape == costs.candidate_ms.shape:
        found["champion_p99_ms"] = Rounds(np.atleast_2d(costs.champion_ms)).value
        found["median_ratio"] = float(np.median(costs.candidate_ms / costs.champion_ms))
    if costs.champion_bytes is not None:
        found["champion_mib"] = costs.champion_bytes / _MIB
    return found
