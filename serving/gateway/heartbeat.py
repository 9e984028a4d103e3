"""The heartbeat of each gateway: a file below the home that says what it applies, what it does and that it lives."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from prometheus_client import Counter, Gauge
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ledger.spill import SpillState
from moderation.enforcement import HOUR, Buckets
from moderation.files import replace_file
from serving.routing import Arm

_LOG = logging.getLogger(__name__)

UPLOADS_IN_FLIGHT: Final = Gauge(
    "tidegate_gateway_uploads_in_flight", "Uploads that are being decided."
)
REQUESTS: Final = Counter(
    "tidegate_gateway_arm_requests_total", "Uploads that were sent to an arm.", ["arm"]
)
IN_FLIGHT: Final = Gauge(
    "tidegate_gateway_arm_in_flight", "Uploads that wait for an arm's answer.", ["arm"]
)
FAILED: Final = Counter(
    "tidegate_gateway_heartbeats_failed_total", "Heartbeats that could not be written or read."
)

_SUFFIX: Final = ".json"
# Of a gateway that is gone, what it enforced counts for an hour.
_KEPT: Final = HOUR + timedelta(minutes=5)

LeaseState = Literal["live", "not live", "no candidate", "no table"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArmTraffic(_Frozen):
    """What one arm was sent since the gateway started, and what it has not answered yet."""

    requests: int = 0
    in_flight: int = 0


class ShadowTraffic(_Frozen):
    """What became of requests to the shadow since the gateway started."""

    sent: int = 0
    shed: int = 0
    failed: int = 0


class GatewayBeat(_Frozen):
    """What one gateway says of itself at one instant."""

    gateway: str
    host: str
    pid: int
    started_at: AwareDatetime
    at: AwareDatetime
    revision: int | None
    """Of the routing table that it applies; None without one."""

    renewal: int | None
    lease: LeaseState
    arms: dict[Arm, ArmTraffic]
    shadow: ShadowTraffic | None
    """None where shadows are off."""

    breakers: dict[str, str]
    """Dependency -> closed, open or half open. While that of the ledger is open, what is decided is spilled."""

    spill: SpillState | None = None
    """What waits there; None in heartbeats of before this field."""

    enforcement: Literal["automatic", "stopped"] | None
    """None where nothing watches it."""

    is_loud: bool = False
    """Whether it sees too much being flagged or enforced now."""

    enforced: Buckets = Field(default_factory=dict)
    """What it blocked or suspended without a person in the last hour."""


@dataclass(frozen=True)
class SeenBeat:
    """A heartbeat as a reader finds it."""

    beat: GatewayBeat
    is_alive: bool
    """Whether it came lately, from a process that runs as far as can be told from here."""


class Traffic:
    """Counts what a gateway does now; all on one event loop."""

    def __init__(self) -> None:
        self.uploads = 0
        self._requests: dict[Arm, int] = {"champion": 0, "candidate": 0}
        self._in_flight: dict[Arm, int] = {"champion": 0, "candidate": 0}

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Count an upload as in flight for the length of the block."""
        self.uploads += 1
        UPLOADS_IN_FLIGHT.set(self.uploads)
        try:
            yield
        finally:
            self.uploads -= 1
            UPLOADS_IN_FLIGHT.set(self.uploads)

    @contextmanager
    def asking(self, arm: Arm) -> Iterator[None]:
        """Count a request to an arm, in flight for the length of the block."""
        self._requests[arm] += 1
        self._in_flight[arm] += 1
        REQUESTS.labels(arm).inc()
        IN_FLIGHT.labels(arm).set(self._in_flight[arm])
        try:
            yield
        finally:
            self._in_flight[arm] -= 1
            IN_FLIGHT.labels(arm).set(self._in_flight[arm])

    def arms(self) -> dict[Arm, ArmTraffic]:
        """Return what each arm was sent and has not answered."""
        return {
            arm: ArmTraffic(requests=num, in_flight=self._in_flight[arm])
            for arm, num in self._requests.items()
        }


def write_beat(folder: Path, beat: GatewayBeat) -> None:
    """Put a heartbeat where readers look, all at once; what cannot be written is counted, no more.

    Files of gateways that have been gone for more than an hour are taken away.
    """
    try:
        replace_file(folder / f"{beat.gateway}{_SUFFIX}", beat.model_dump_json().encode())
    except OSError as error:
        FAILED.inc()
        _LOG.error("the heartbeat was not written", extra={"reason": str(error)})
        return
    for seen in read_beats(folder, beat.at, stale_s=_KEPT.total_seconds()):
        if beat.at - seen.beat.at > _KEPT:
            with suppress(OSError):
                (folder / f"{seen.beat.gateway}{_SUFFIX}").unlink()


def read_beats(folder: Path, now: datetime, *, stale_s: float) -> tuple[SeenBeat, ...]:
    """Return the newest heartbeat of every gateway, by id; files that are none are counted and passed over.

    Args:
        folder: where gateways write.
        now: of the reader's clock.
        stale_s: age from which a gateway counts as gone.
    """
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            beat = GatewayBeat.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValidationError) as error:
            FAILED.inc()
            _LOG.error("a heartbeat cannot be read", extra={"reason": f"{path}: {error}"})
            continue
        is_fresh = (now - beat.at).total_seconds() < stale_s
        found.append(SeenBeat(beat, is_fresh and _may_run(beat)))
    return tuple(found)


def _may_run(beat: GatewayBeat) -> bool:
    """Whether the process may run: certain to be gone only where it ran on this machine."""
    if beat.host != socket.gethostname():
        return True
    try:
        os.kill(beat.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
