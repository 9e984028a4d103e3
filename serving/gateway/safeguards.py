"""What watches over decisions: enforcement, shadow, audit and heartbeat; each is there if the contract has it."""

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from ledger.events import Event, from_review_task
from ledger.ledger import Ledger
from ledger.spill import SpillState
from moderation.clock import Clock
from moderation.decision import Decision
from moderation.errors import TemporaryError
from moderation.policy import PolicyFile
from moderation.serving_rules import Heartbeat, ServingRules
from serving.gateway.audit import DRAWN, RandomAudit, audit_salt
from serving.gateway.enforcement import Enforcement, Others, nobody_else
from serving.gateway.heartbeat import (
    GatewayBeat,
    LeaseState,
    Traffic,
    read_beats,
    write_beat,
)
from serving.gateway.judged import Asked
from serving.gateway.shadow import Shadow
from serving.routing import Router

_LOG = logging.getLogger(__name__)

# How often the ledger's state of enforcement is read: within a second every gateway follows.
POLL_S: Final = 0.5

GATEWAYS: Final = "gateways"
"""Folder of the heartbeats, below the home."""

AUDIT_SALT: Final = "audit.salt"


@dataclass
class Safeguards:
    """The parts of one gateway; without any, it only counts its traffic."""

    traffic: Traffic = field(default_factory=Traffic)
    enforcement: Enforcement | None = None
    audit: RandomAudit | None = None
    shadow: Shadow | None = None
    beats: "Beats | None" = None

    def settle(self, decision: Decision) -> Decision:
        """Return a decision as it is to be recorded: held where enforcement is stopped, with its chance of an audit."""
        if self.enforcement is not None:
            decision = self.enforcement.settle(decision)
        return decision if self.audit is None else self.audit.settle(decision)

    def events(
        self, decision: Decision, recorded_at: datetime, seller_id: str | None
    ) -> list[Event]:
        """Return what is recorded beside a decision."""
        task = self.audit.task(decision) if self.audit else None
        if task is None:
            return []
        return [from_review_task(task, recorded_at=recorded_at, seller_id=seller_id)]

    def decided(self, decision: Decision, asked: Asked | None, seller_id: str | None) -> bool:
        """Take note of a recorded decision; return whether `step` should be called now, to record a stop.

        Args:
            decision: as it was recorded.
            asked: the release about this upload; None where stage 1 or an earlier answer decided.
            seller_id: of the upload.
        """
        if self.audit is not None and self.audit.task(decision) is not None:
            DRAWN.labels(decision.tier).inc()
        if self.shadow is not None and asked is not None:
            self.shadow.send(asked.query, decision, seller_id)
        if self.enforcement is None:
            return False
        return self.enforcement.observe(decision, asked.expected if asked else None)

    def step(self, ledger: Ledger) -> None:
        """Do what waits for the ledger: follow and record enforcement, keep answers of the shadow."""
        if self.enforcement is not None:
            self.enforcement.sync()
        self._flush(ledger)

    def beat(self) -> None:
        """Write the heartbeat, if there is one and it is time."""
        if self.beats is not None:
            self.beats.write(self)

    @property
    def has_answers(self) -> bool:
        """Whether answers of the shadow wait for `step`."""
        return self.shadow is not None and self.shadow.has_answers

    async def close(self) -> None:
        """Give up the shadow's requests; its answers are kept by the next `step`."""
        if self.shadow is not None:
            await self.shadow.close()

    def _flush(self, ledger: Ledger) -> None:
        if self.shadow is None:
            return
        try:
            self.shadow.flush(ledger)
        except TemporaryError as error:
            _LOG.error("answers of the shadow wait", extra={"reason": str(error)})


class Beats:
    """Writes the heartbeat of one gateway, and reads those of the others.

    Args:
        rules: how often, and when a gateway counts as gone.
        around: what it tells of.
    """

    def __init__(self, rules: Heartbeat, around: "Around") -> None:
        self._rules, self._folder, self._gateway = rules, around.home / GATEWAYS, around.gateway
        self._router, self._clock, self._around = around.router, around.clock, around
        self._started_at = around.clock.now()
        self._written_s: float | None = None

    def write(self, safeguards: Safeguards) -> None:
        """Write a heartbeat where it is time for one."""
        now_s = self._clock.monotonic()
        # A step comes a little early or late; a beat is never put off by a whole step for that.
        if (
            self._written_s is not None
            and now_s - self._written_s < self._rules.every_s - POLL_S / 2
        ):
            return
        self._written_s = now_s
        write_beat(self._folder, self._beat(safeguards))

    def others(self) -> Others:
        """Return what the other gateways of the home say."""
        seen = read_beats(self._folder, self._clock.now(), stale_s=self._rules.stale_s)
        beats = [one for one in seen if one.beat.gateway != self._gateway]
        return Others(
            tuple(one.beat.enforced for one in beats),
            any(one.beat.is_loud for one in beats if one.is_alive),
        )

    def _beat(self, safeguards: Safeguards) -> GatewayBeat:
        table, enforcement = self._router.table, safeguards.enforcement
        is_stopped = enforcement is not None and enforcement.state.is_stopped
        return GatewayBeat(
            gateway=self._gateway,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            at=self._clock.now(),
            revision=table.revision if table else None,
            renewal=table.renewal if table else None,
            lease=self._lease(),
            arms=safeguards.traffic.arms(),
            shadow=safeguards.shadow.counts() if safeguards.shadow else None,
            breakers=self._around.breakers()
            | (safeguards.shadow.states() if safeguards.shadow else {}),
            spill=self._around.spilled(),
            enforcement=None if enforcement is None else "stopped" if is_stopped else "automatic",
            is_loud=enforcement is not None and enforcement.is_loud,
            enforced=enforcement.buckets() if enforcement else {},
        )

    def _lease(self) -> LeaseState:
        table = self._router.table
        if table is None:
            return "no table"
        if table.candidate is None:
            return "no candidate"
        return "live" if self._router.is_lease_live else "not live"


@dataclass(frozen=True)
class Around:
    """What the safeguards of a gateway stand on."""

    home: Path
    ledger: Ledger
    router: Router
    policies: PolicyFile
    clock: Clock
    gateway: str
    """Id of the gateway, another one at every start."""

    breakers: Callable[[], dict[str, str]]
    """Dependency -> state of its circuit."""

    spilled: Callable[[], SpillState]
    """What could not be given to the ledger or the content store."""


def safeguards_of(rules: ServingRules, around: Around) -> Safeguards:
    """Return the safeguards that the contract asks for; a stop that the ledger holds is in force when this returns."""
    found, clock = Safeguards(), around.clock
    if rules.audit is not None:
        found.audit = RandomAudit(rules.audit, audit_salt(around.home / AUDIT_SALT))
    if rules.heartbeat is not None:
        found.beats = Beats(rules.heartbeat, around)
    if rules.shadow is not None:
        found.shadow = Shadow(
            rules.shadow,
            rules.breakers.predictor,
            router=around.router,
            policies=around.policies,
            traffic=found.traffic,
            clock=clock,
        )
    if rules.prediction_breaker is not None or rules.enforcement_quotas is not None:
        found.enforcement = Enforcement(
            rules,
            around.ledger,
            clock,
            gateway=around.gateway,
            others=found.beats.others if found.beats else nobody_else,
        )
        found.enforcement.sync()
    return found
