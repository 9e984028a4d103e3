"""The behaviour prefilter in the gateway: fetched once per release, then asked without the network.

Whatever goes wrong, the upload goes on. A known share of what it would let go goes on too, by a draw that can be
replayed, so that what it misses stays measured (`moderation.prefilter_audit`).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import Counter

from moderation.behaviour_prefilter import Opinion, Prefilter, digest_of
from moderation.clock import Clock
from moderation.decision import STATUS_CODES, SignalStatus
from moderation.errors import TidegateError
from moderation.prefilter_audit import random_draw
from moderation.serving_rules import BehaviourRules
from moderation.stage_1 import StageSignal
from serving.gateway.behaviour import Behaviour

_LOG = logging.getLogger(__name__)

ANSWERS: Final = Counter(
    "tidegate_behaviour_prefilter_total",
    "Uploads by what the behaviour prefilter said.",
    ["outcome"],
)
FETCHES: Final = Counter(
    "tidegate_behaviour_prefilter_fetches_total", "Prefilters asked of predictors.", ["outcome"]
)

NAME: Final = "behaviour"
_COST_MS: Final = 0.5
_MAX_RELEASES: Final = 4
"""Champion, candidate, shadow and the one before: older ones are forgotten."""

_OK: Final = STATUS_CODES[SignalStatus.OK]


class Fetch(Protocol):
    """Gives the verified bytes of a bundle's prefilter."""

    def __call__(self, *, bundle: str) -> Awaitable[bytes | None]:
        """Return them, None if it has none; raises where it cannot be asked."""
        ...


@dataclass(frozen=True)
class StageAnswer:
    """What the stage says of one upload, for its record."""

    status: SignalStatus
    """Missing: no prefilter, or nothing that it could judge. Error: it could not be fetched, or its trees failed."""

    score: float | None
    lets_go: bool
    """Whether no model need be asked; False where the draw sends it on."""

    was_random: bool
    """Whether it scored below the threshold and goes on because it was drawn."""

    random_share: float
    """Chance of the draw, for the estimate of what is missed."""

    reason: str
    latency_ms: float
    version: str | None
    """SHA-256 of the prefilter that was asked."""

    def signal(self) -> StageSignal:
        """Return it as stage 1 records it, with what the estimate of misses needs."""
        drawn: dict[str, str | int | float] = {
            "random_share": self.random_share,
            "was_random": int(self.was_random),
        }
        return StageSignal(
            name=NAME,
            status=self.status.value,
            reason=self.reason,
            version=self.version,
            value=self.score,
            cost=_COST_MS,
            latency_ms=self.latency_ms,
            is_decisive=self.lets_go,
            found=(drawn,) if self.lets_go or self.was_random else (),
        )


@dataclass(frozen=True)
class _Known:
    """What is known of one release: its prefilter, or why there is none, and when to ask again."""

    prefilter: Prefilter | None
    version: str | None
    why: str
    is_error: bool = False
    retry_at: float | None = None


class BehaviourStage:
    """The prefilters of the releases that answer; `judge` may be called from many threads.

    Args:
        rules: of the contract.
        clock: times answers and when a fetch is tried again.
    """

    def __init__(self, rules: BehaviourRules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[None]] = {}

    def prepare(self, bundle: str, fetch: Fetch) -> None:
        """Fetch the prefilter of a release in the background, unless it is there; never waits.

        To be called on the event loop with every upload; after a failure it asks again in the contract's `retry_s`.
        """
        known = self._known.get(bundle)
        is_settled = known is not None and (
            known.retry_at is None or self._clock.monotonic() < known.retry_at
        )
        if is_settled or bundle in self._fetching:
            return
        task = asyncio.get_running_loop().create_task(self._fetch(bundle, fetch))
        self._fetching[bundle] = task
        task.add_done_callback(lambda _: self._fetching.pop(bundle, None))

    async def ready(self) -> None:
        """Wait until no fetch is under way."""
        await asyncio.gather(*self._fetching.values())

    def judge(self, bundle: str | None, behaviour: Behaviour, draw: float) -> StageAnswer:
        """Return whether an upload may pass without a model's answer; never an error.

        Args:
            bundle: digest of the release that would be asked; None where there is none.
            behaviour: of the seller just before the upload.
            draw: `prefilter_audit.random_draw` of the submission, in [0, 1).
        """
        begin = self._clock.monotonic()
        known = self._known.get(bundle) if bundle else None
        opinion, status = _opinion(known, behaviour)
        was_random = opinion.lets_go and draw < self._rules.random_share
        reason = "drawn at random to go on" if was_random else opinion.reason
        lets_go = opinion.lets_go and not was_random
        outcome = "drawn" if was_random else "let_go" if lets_go else f"goes_on_{status.value}"
        ANSWERS.labels(outcome).inc()
        return StageAnswer(
            status=status,
            score=opinion.score,
            lets_go=lets_go,
            was_random=was_random,
            random_share=self._rules.random_share,
            reason=reason,
            latency_ms=(self._clock.monotonic() - begin) * 1e3,
            version=known.version if known else None,
        )

    def draw(self, submission_id: str) -> float:
        """Return the draw of a submission, under the contract's salt."""
        return random_draw(submission_id, self._rules.salt)

    async def close(self) -> None:
        """Give up what is being fetched."""
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)

    async def _fetch(self, bundle: str, fetch: Fetch) -> None:
        try:
            data = await fetch(bundle=bundle)
            # Off the event loop: the first one imports LightGBM, which takes seconds.
            found = await asyncio.to_thread(_read, data)
        except Exception as error:
            # The edge where nothing may stop an upload: without a prefilter everything goes on.
            if not isinstance(error, TidegateError):
                _LOG.exception("the prefilter could not be fetched")
            why = f"could not be fetched: {type(error).__name__}: {error}"
            _LOG.error("no behaviour prefilter", extra={"bundle": bundle, "reason": why})
            retry_at = self._clock.monotonic() + self._rules.retry_s
            found = _Known(None, None, why, is_error=True, retry_at=retry_at)
        FETCHES.labels("error" if found.is_error else "ok" if found.prefilter else "none").inc()
        self._known[bundle] = found
        self._known.move_to_end(bundle)
        while len(self._known) > _MAX_RELEASES:
            self._known.popitem(last=False)


def _read(data: bytes | None) -> _Known:
    """Return the prefilter in bytes that were verified.

    Raises:
        BundleRejected: if they are none.
    """
    if data is None:
        return _Known(None, None, "the bundle has no prefilter")
    digest = digest_of(data)
    return _Known(Prefilter.from_bytes(data, digest=digest), digest, "")


def _opinion(known: _Known | None, behaviour: Behaviour) -> tuple[Opinion, SignalStatus]:
    if known is None:
        return Opinion(None, False, "not fetched yet"), SignalStatus.MISSING
    if known.prefilter is None:
        status = SignalStatus.ERROR if known.is_error else SignalStatus.MISSING
        return Opinion(None, False, known.why), status
    try:
        said = known.prefilter.judge(behaviour.values_F, behaviour.status_F == _OK)
    except Exception as error:
        # The edge where nothing may stop an upload: trees that fail let nothing go.
        _LOG.exception("the prefilter failed")
        return Opinion(None, False, f"{type(error).__name__}: {error}"), SignalStatus.ERROR
    return said, SignalStatus.MISSING if said.score is None else SignalStatus.OK
