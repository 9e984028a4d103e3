"""Stage 1: the stages before the model, cheapest first; who decides spares the rest, and no failure stops an upload."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from PIL.Image import Image

from moderation.clock import Clock
from moderation.policy import PolicyFile
from moderation.stage_1 import Stage1, StageSignal, heeding_errors, is_decisive
from moderation.telemetry import span

_LOG: Final = logging.getLogger(__name__)

NOT_ASKED: Final = "not_asked"
"""Why a stage says nothing: a cheaper one had decided."""


@dataclass(frozen=True)
class Incoming:
    """What stages look at: one upload."""

    submission_id: str
    """Never the same twice: what a stage draws by."""

    title: str
    description: str
    views: tuple[Image, ...]
    """Of each image, `moderation.image.decode_view`."""


class Stage(Protocol):
    """One kind of check. What it raises counts as its error; it must be safe to call from several threads."""

    @property
    def name(self) -> str:
        """Of its signals and metrics; from a closed set."""
        ...

    @property
    def cost(self) -> float:
        """What it is expected to take, in milliseconds of one core."""
        ...

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        """Return at least one signal under `name`, whatever was found; the caller fills in cost and latency."""
        ...


@dataclass(frozen=True)
class Looked:
    """What stages said of one upload."""

    signals: tuple[StageSignal, ...]
    latency_ms: float

    def concluded(self, policies: PolicyFile, beside: Sequence[StageSignal] = ()) -> Stage1:
        """Return the outcome; where anything failed, nothing lets the upload go.

        Args:
            policies: give reason codes.
            beside: signals of what was asked elsewhere; they come first.
        """
        latency_ms = self.latency_ms + sum(one.latency_ms for one in beside)
        signals = heeding_errors((*beside, *self.signals))
        return Stage1.of(signals, policies, latency_ms=latency_ms)


class Prefilter:
    """Runs stages, the cheapest first."""

    def __init__(self, stages: Iterable[Stage], clock: Clock) -> None:
        self._stages = sorted(stages, key=lambda stage: stage.cost)
        self._clock = clock

    def look(self, upload: Incoming) -> Looked:
        """Return what the stages say.

        A stage that raises the tier and decides ends it: dearer ones are not asked. One that would let the upload go
        does not, because a dearer one may still raise it.
        """
        begin = self._clock.monotonic()
        signals: list[StageSignal] = []
        for stage in self._stages:
            if is_decisive(signals) and any(signal.tier != "allow" for signal in signals):
                signals.append(_unasked(stage))
            else:
                signals += self._asked(stage, upload)
        return Looked(tuple(signals), (self._clock.monotonic() - begin) * 1e3)

    def _asked(self, stage: Stage, upload: Incoming) -> list[StageSignal]:
        begin = self._clock.monotonic()
        try:
            with span(f"stage_1.{stage.name}", self._clock):
                found = list(stage.look(upload))
        except Exception as error:
            # The edge where nothing may stop an upload: what fails here is recorded, and the rest is asked.
            _LOG.exception("a stage failed", extra={"stage": stage.name})
            reason = f"{type(error).__name__}: {error}"
            found = [StageSignal(name=stage.name, status="error", reason=reason)]
        took = {"cost": stage.cost, "latency_ms": (self._clock.monotonic() - begin) * 1e3}
        return [signal.model_copy(update=took) for signal in found]


def _unasked(stage: Stage) -> StageSignal:
    return StageSignal(name=stage.name, status="missing", reason=NOT_ASKED, cost=stage.cost)
