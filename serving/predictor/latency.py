"""How long a batch will take, learnt from those before it: what deadlines, waiting and Retry-After are judged by.

A batch takes a fixed time plus a time for each pass through a tower. The line is fitted to recent batches by least
squares with forgetting; a margin of the usual error is put on top where a deadline depends on it.

One batch can stall for a minute on a busy machine, which says nothing of the next one. So none is learnt as more than
ten times what was expected; an engine that is slower for good is learnt by the tens within its next batches. A batch
that takes less than a tenth shows that the estimate was wrong, and brings it down at once.

Source:
    Crankshaw et al. 2017, "Clipper" (latency by batch size, learnt online); Romero et al. 2021, "INFaaS" (a line
    through them); Jacobson 1988, "Congestion Avoidance and Control" (mean deviation as margin).
"""

from typing import Final

# A batch counts half after fifty more: a machine that slows down is noticed within seconds.
_KEPT: Final = 0.986
_DEVIATION_GAIN: Final = 0.1
_DEVIATIONS: Final = 2.0
# Below this spread of sizes around their mean, a slope says more about noise than about size.
_MIN_SPREAD: Final = 0.05
# What one batch may be away from what was expected, and still be believed as it is.
_MOST_TIMES: Final = 10.0
_EASED: Final = 0.5
# A batch twice as long as one whose passes take ten times the fixed time saves less than five in a hundred.
_SPREAD: Final = 10.0


class LatencyModel:
    """Seconds of a batch by its passes; says 0 until it has seen one."""

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.pass_s = 0.0
        self._deviation = 0.0
        self._eased = 1.0
        self._weight = self._x = self._xx = self._y = self._xy = 0.0

    def learn(self, passes: float, seconds: float) -> None:
        """Take one measured batch into account; what was eased before it counts no more."""
        self._eased = 1.0
        expected = self.seconds(passes)
        if expected > 0:
            seconds = min(seconds, _MOST_TIMES * expected)
            error = abs(seconds / expected - 1)
            self._deviation += _DEVIATION_GAIN * (min(error, 1.0) - self._deviation)
            believed = min(_MOST_TIMES * seconds / expected, 1.0)
            self._y *= believed
            self._xy *= believed
        self._weight = _KEPT * self._weight + 1
        self._x = _KEPT * self._x + passes
        self._xx = _KEPT * self._xx + passes * passes
        self._y = _KEPT * self._y + seconds
        self._xy = _KEPT * self._xy + passes * seconds
        self._fit()

    def seconds(self, passes: float) -> float:
        """Return what a batch is expected to take."""
        return self._eased * (self.fixed_s + self.pass_s * passes)

    def bound_s(self, passes: float) -> float:
        """Return what a batch will hardly exceed."""
        return self.seconds(passes) * (1 + _DEVIATIONS * self._deviation)

    def drain_s(self, passes: float, num_batches: float) -> float:
        """Return what so many passes in so many batches take, one after the other."""
        return self._eased * (num_batches * self.fixed_s + passes * self.pass_s)

    def is_spread(self, passes: float) -> bool:
        """Return whether a batch's fixed time is spread so thin that more passes would only make it longer."""
        return self.pass_s > 0 and self.pass_s * passes >= _SPREAD * self.fixed_s

    def ease(self) -> None:
        """Expect half until the next batch is measured.

        Called when something is refused for being slow while nothing runs that would show it: soon one is let in, and
        its time mends a wrong estimate.
        """
        self._eased *= _EASED

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        if variance > (_MIN_SPREAD * mean_x) ** 2:
            slope = (self._xy / self._weight - mean_x * mean_y) / variance
            self.pass_s = min(max(slope, 0.0), mean_y / mean_x)
            self.fixed_s = mean_y - self.pass_s * mean_x
            return
        before = self.fixed_s + self.pass_s * mean_x
        if before > 0:
            self.fixed_s *= mean_y / before
            self.pass_s *= mean_y / before
        else:
            self.pass_s = mean_y / mean_x
