"""How long a batch will take, learnt from those before it: what deadlines, waiting and Retry-After are judged by.

A batch takes a fixed time plus a time for each pass through a tower. The line is fitted to recent batches by least
squares with forgetting; a margin of the usual error is put on top where a deadline depends on it.

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
_EASED: Final = 0.99


class LatencyModel:
    """Seconds of a batch by its passes; says 0 until it has seen one."""

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.pass_s = 0.0
        self._deviation = 0.0
        self._weight = self._x = self._xx = self._y = self._xy = 0.0

    def learn(self, passes: float, seconds: float) -> None:
        """Take one measured batch into account."""
        expected = self.seconds(passes)
        if expected > 0:
            error = abs(seconds / expected - 1)
            self._deviation += _DEVIATION_GAIN * (min(error, 1.0) - self._deviation)
        self._weight = _KEPT * self._weight + 1
        self._x = _KEPT * self._x + passes
        self._xx = _KEPT * self._xx + passes * passes
        self._y = _KEPT * self._y + seconds
        self._xy = _KEPT * self._xy + passes * seconds
        self._fit()

    def seconds(self, passes: float) -> float:
        """Return what a batch is expected to take."""
        return self.fixed_s + self.pass_s * passes

    def bound_s(self, passes: float) -> float:
        """Return what a batch will hardly exceed."""
        return self.seconds(passes) * (1 + _DEVIATIONS * self._deviation)

    def drain_s(self, passes: float, num_batches: float) -> float:
        """Return what so many passes in so many batches take, one after the other."""
        return num_batches * self.fixed_s + passes * self.pass_s

    def ease(self) -> None:
        """Expect a little less: called when something was refused for being slow, so that a wrong estimate mends."""
        self.fixed_s *= _EASED
        self.pass_s *= _EASED

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        if variance > (_MIN_SPREAD * mean_x) ** 2:
            slope = (self._xy / self._weight - mean_x * mean_y) / variance
            self.pass_s = min(max(slope, 0.0), mean_y / mean_x)
            self.fixed_s = mean_y - self.pass_s * mean_x
            return
        before = self.seconds(mean_x)
        if before > 0:
            self.fixed_s *= mean_y / before
            self.pass_s *= mean_y / before
        else:
            self.pass_s = mean_y / mean_x
