"""Repeated uploads: the earlier decision whose answer holds still, read again from the ledger each time.

The ledger says what became of an answer meanwhile: truth that another gateway recorded, a seller that was erased.
"""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from ledger.events import EventKind
from ledger.ledger import Ledger
from moderation.clock import Clock
from moderation.decision import Decision
from moderation.errors import TidegateError
from moderation.listing import Submission
from moderation.policy import PolicyFile
from moderation.repeats import JudgedBy, Kept, Repeats, repeat_key
from moderation.serving_rules import DuplicateRules
from moderation.stage_1 import StageSignal

NAME: Final = "duplicates"
_COST: Final = 0.3
_ENDING: Final = (EventKind.GROUND_TRUTH, EventKind.REVERSAL, EventKind.APPEAL)
"""What says that an answer may have been wrong."""


Read = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Seen:
    """Whether an upload came before."""

    signal: StageSignal
    earlier: Decision | None


class RepeatedUploads:
    """Finds the decision that an upload repeats; its own methods may be called from several threads.

    Args:
        ledger: which gateways share.
        rules: how long, how often and how many.
        clock: tells how long ago.
    """

    def __init__(self, ledger: Ledger, rules: DuplicateRules, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self._repeats = Repeats(rules, clock)
        self._lock = threading.Lock()
        self._sequence: int | None = None
        """Up to where the ledger was followed; None until it could be read once, and nothing is kept until then."""

    async def look(
        self, submission: Submission, by: JudgedBy | None, policies: PolicyFile, read: Read
    ) -> Seen:
        """Return the decision about the same upload whose answer holds still, and the signal that says so.

        The ledger is asked about uploads that are known to repeat another; most do not.

        Args:
            submission: not decided yet.
            by: what would judge it; None where no release is there.
            policies: in force.
            read: calls what reads the ledger, off the event loop and within a budget.
        """
        begin = self._clock.monotonic()
        signal: dict[str, Any] = {"name": NAME, "status": "ok", "cost": _COST}
        earlier = None
        try:
            if by is None:
                signal |= {"status": "missing", "reason": "no_release"}
            elif (key := repeat_key(submission, by, policies, self._clock.now())) is None:
                signal |= {"status": "missing", "reason": "no_seller"}
            elif key in self._repeats:
                earlier = await read(self._earlier, key, submission)
        except TidegateError as error:
            signal |= {"status": "error", "reason": f"{type(error).__name__}: {error}"}
        if earlier is not None:
            signal |= {"reason": "repeated", "found": ({"decision": earlier.decision_id},)}
        signal["latency_ms"] = (self._clock.monotonic() - begin) * 1e3
        return Seen(StageSignal.model_validate(signal), earlier)

    def keep(
        self, decision: Decision, submission: Submission, by: JudgedBy, policies: PolicyFile
    ) -> None:
        """Let the answer of a decision be given again; call it before the decision is recorded.

        Until it is recorded nobody gets it, and no truth about it can come in between unseen. Kept is only what a model
        answered of an upload that nothing was missing of, and nothing before the ledger was followed once.
        """
        if self._sequence is None or decision.decided_by != "model" or decision.degraded:
            return
        key = repeat_key(submission, by, policies, decision.decided_at)
        if key is not None:
            self._repeats.keep(key, Kept(submission.submission_id, decision.decision_id))

    def follow(self) -> None:
        """Forget what truth, appeals or reversals came about since the last look.

        Raises:
            LedgerUnavailable: if the ledger cannot be read.
        """
        with self._lock:
            head = self._ledger.last_sequence()
            if self._sequence is None:
                self._sequence = head
            if head == self._sequence:
                return
            found = list(self._ledger.read(_ENDING, self._sequence))
            self._repeats.forget({stored.event.submission_id for stored in found})
            self._sequence = max([head, *(stored.sequence for stored in found)])

    def _earlier(self, key: str, submission: Submission) -> Decision | None:
        self.follow()
        kept = self._repeats.take(key, submission.submission_id)
        if kept is None:
            return None
        found = self._ledger.get_decision_of(kept.submission_id)
        # Not there yet, its seller erased, or another gateway was faster with the same submission.
        return found if found is not None and found.decision_id == kept.decision_id else None
