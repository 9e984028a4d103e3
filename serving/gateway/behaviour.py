"""The behaviour behind an upload as a decision uses it: read within a time budget, its faults named, never guessed."""

import asyncio
import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Gauge

from featurestore.layout import Place
from featurestore.online import BehaviourRead, OnlineReader, open_rows
from moderation import tracing
from moderation.decision import STATUS_CODES, FeatureValue, SignalStatus
from moderation.errors import TidegateError
from moderation.features import FEATURE_NAMES, FEATURES
from moderation.listing import Submission
from serving.deadline import Deadline
from serving.gateway.breaker import Breaker, CircuitOpen

_LOG = logging.getLogger(__name__)

READS: Final = Counter(
    "tidegate_feature_reads_total", "Reads of behaviour features by how they ended.", ["outcome"]
)
LAG: Final = Gauge("tidegate_feature_read_lag_seconds", "How far the newest read lay behind.")

_STATUSES: Final = {code: status for status, code in STATUS_CODES.items()}
# Reads that hang must not take the threads that record decisions.
_NUM_THREADS: Final = 8


@dataclass(frozen=True)
class Behaviour:
    """The behaviour features of one upload, as they go to the predictor and into the Decision."""

    values_F: npt.NDArray[np.float32]
    status_F: npt.NDArray[np.int8]
    event_time: datetime | None
    through: datetime | None = None
    """Everything that was known by then is in them."""

    degraded: tuple[str, ...] = ()
    """What was stale or could not be read, as the Decision says it."""

    @classmethod
    def of(cls, read: BehaviourRead) -> "Behaviour":
        """Return read features: NaN is missing where nothing is known, an error where something is wrong."""
        known_F = np.isfinite(read.behaviour_F)
        faulty = {*read.stale, *read.unreadable}
        codes_F = [
            STATUS_CODES[SignalStatus.ERROR if name in faulty else SignalStatus.MISSING]
            for name in FEATURE_NAMES
        ]
        status_F = np.where(known_F, STATUS_CODES[SignalStatus.OK], codes_F).astype(np.int8)
        values_F = np.where(known_F, read.behaviour_F, np.float32(0)).astype(np.float32)
        return cls(values_F, status_F, read.newest, read.through, tuple(_said(read)))

    @classmethod
    def failed(cls, reason: str) -> "Behaviour":
        """Return features that could not be read."""
        shape, code = len(FEATURES), STATUS_CODES[SignalStatus.ERROR]
        said = f"behaviour: could not be read: {reason}"
        return cls(
            np.zeros(shape, np.float32), np.full(shape, code, np.int8), None, degraded=(said,)
        )

    def feature_values(self) -> tuple[FeatureValue, ...]:
        """Return the features for the record; a value only where the status is ok."""
        return tuple(
            FeatureValue(
                name=name,
                value=float(value) if _STATUSES[code] is SignalStatus.OK else None,
                status=_STATUSES[code],
                event_time=self.event_time if _STATUSES[code] is SignalStatus.OK else None,
            )
            for name, value, code in zip(
                FEATURE_NAMES, self.values_F.tolist(), self.status_F.tolist(), strict=True
            )
        )


def _said(read: BehaviourRead) -> list[str]:
    said = []
    if read.stale:
        behind = f"{read.lag_s:.0f} s" if math.isfinite(read.lag_s) else "an unknown time"
        said.append(f"behaviour: {behind} behind; stale: {', '.join(read.stale)}")
    if read.empty:
        said.append(f"behaviour: rows that cannot be read: {', '.join(read.empty)}")
    return said


class BehaviourReader(Protocol):
    """What gives the behaviour of a seller just before an upload."""

    def read(self, submission: Submission) -> BehaviourRead:
        """Return the behaviour just before `submission`.

        Raises:
            FeatureStoreUnavailable: if the store does not answer.
            FeaturesNotReady: if nothing was set up.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class FeastReader:
    """The online store of a place, opened when it is first asked: a gateway starts without it."""

    def __init__(self, place: Place, budget_s: float) -> None:
        self._place, self._budget_s = place, budget_s
        self._lock = threading.Lock()
        self._opened: OnlineReader | None = None

    def read(self, submission: Submission) -> BehaviourRead:
        """Return the behaviour just before `submission`; see the protocol."""
        return self._reader().read(submission)

    def close(self) -> None:
        """Give back connections."""
        if self._opened:
            self._opened.close()

    def _reader(self) -> OnlineReader:
        with self._lock:
            if self._opened is None:
                self._opened = OnlineReader(open_rows(self._place, self._budget_s))
            return self._opened


class BudgetedBehaviour:
    """A reader that gets its share of an upload's time; whatever goes wrong becomes a part of the decision."""

    def __init__(self, reader: BehaviourReader, breaker: Breaker) -> None:
        self._reader, self._breaker = reader, breaker
        self._executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="features")
        self.last = "not asked yet"
        """How the newest read ended: ok, stale, unreadable, timeout, spent, error, or left alone."""

    async def read(self, submission: Submission, deadline: Deadline) -> Behaviour:
        """Return the behaviour just before `submission`, or that it could not be read in time; never an error."""
        budget_s = deadline.behaviour_s()
        if budget_s <= 0:
            return self._failed("spent", f"the upload's {deadline.total_ms} ms were over before")
        loop, read_one = asyncio.get_running_loop(), copy_context().run
        try:
            with self._breaker.call(is_fair=deadline.is_fair_to_behaviour(budget_s)):
                async with asyncio.timeout(budget_s):
                    read = await loop.run_in_executor(
                        self._executor, read_one, self._reader.read, submission
                    )
        except TimeoutError:
            return self._failed("timeout", f"no answer in {budget_s * 1e3:.0f} ms")
        except CircuitOpen as error:
            return self._failed("left alone", str(error))
        except Exception as error:
            # The edge where nothing may stop an upload: whatever fails here is recorded with the decision.
            if not isinstance(error, TidegateError):
                _LOG.exception("the feature reader failed")
            return self._failed("error", f"{type(error).__name__}: {error}")
        LAG.set(read.lag_s)
        self._count("unreadable" if read.empty else "stale" if read.stale else "ok")
        return Behaviour.of(read)

    def close(self) -> None:
        """Give back connections and threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._reader.close()

    def _failed(self, outcome: str, reason: str) -> Behaviour:
        self._count(outcome)
        _LOG.error("behaviour could not be read", extra={"reason": reason})
        return Behaviour.failed(reason)

    def _count(self, outcome: str) -> None:
        READS.labels(outcome).inc()
        tracing.note(outcome=outcome.replace(" ", "_"))
        self.last = outcome
