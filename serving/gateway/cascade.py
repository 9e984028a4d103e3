"""Stage 1 in a gateway: what it looks things up in, kept up to date while the gateway runs, and its metrics."""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Counter, Gauge

from moderation.banks import Banks
from moderation.decision import Decision
from moderation.errors import TidegateError
from moderation.listing import Submission
from moderation.pattern_book import PatternBook
from moderation.policy import PolicyFile
from moderation.prefilter import Incoming, Looked, Prefilter
from moderation.repeats import JudgedBy
from moderation.stage_1 import StageSignal
from serving.gateway.behaviour import Behaviour
from serving.gateway.behaviour_stage import BehaviourStage
from serving.gateway.repeated import Read, RepeatedUploads, Seen
from serving.routing import Choice

_LOG = logging.getLogger(__name__)

SIGNALS: Final = Counter(
    "tidegate_stage_1_signals_total",
    "What stages said: ok, missing or error.",
    ["name", "status"],
)
DECIDED: Final = Counter(
    "tidegate_decided_by_total", "Decisions by who took them and with which tier.", ["by", "tier"]
)
REFUSED: Final = Gauge(
    "tidegate_stage_1_refused",
    "Looks that met a damaged version of the banks, or a wrong pattern file, since the start.",
    ["what"],
)


class Cascade:
    """What stage 1 of one gateway consists of; `refresh` and `look` do I/O and belong off the event loop.

    Args:
        banks: known images.
        book: analysts' patterns.
        repeated: answers that may be given again.
        prefilter: the stages, those of banks and patterns among them.
        behaviour: lets go whom the release's behaviour trees clear, unless another stage raises something.
    """

    def __init__(
        self,
        banks: Banks,
        book: PatternBook,
        repeated: RepeatedUploads,
        prefilter: Prefilter,
        behaviour: BehaviourStage,
    ) -> None:
        self._banks, self._book = banks, book
        self._repeated, self._prefilter = repeated, prefilter
        self.behaviour = behaviour
        self.refresh()

    def refresh(self) -> None:
        """Look for another version of the banks, another pattern file and news about answers; never an error."""
        looks: dict[str, Callable[[], object]] = {
            "banks": self._banks.refresh,
            "patterns": self._book.refresh,
            "answers": self._repeated.follow,
        }
        for what, look in looks.items():
            try:
                look()
            except (TidegateError, OSError) as error:
                # A later look may do better; until then what was there stays, and every look-up says what it asked.
                reason = f"{what}: {error}"
                _LOG.error("stage 1 could not be brought up to date", extra={"reason": reason})
        REFUSED.labels("banks").set(self._banks.num_refused)
        REFUSED.labels("patterns").set(self._book.num_refused)

    async def seen(
        self, submission: Submission, choice: Choice | None, policies: PolicyFile, read: Read
    ) -> Seen:
        """Return whether an upload repeats one whose answer holds still; see `RepeatedUploads.look`."""
        by = None
        if choice is not None:
            by = _judged_by(choice, patterns=self._book.version, banks=self._banks.version)
        seen = await self._repeated.look(submission, by, policies, read)
        _count([seen.signal])
        return seen

    def look(self, upload: Incoming) -> Looked:
        """Return what the stages say of an upload that was not seen, but for its seller's behaviour."""
        found = self._prefilter.look(upload)
        _count(found.signals)
        return found

    def judge(self, choice: Choice | None, behaviour: Behaviour, submission_id: str) -> StageSignal:
        """Return whether the behaviour of the seller clears an upload."""
        draw = self.behaviour.draw(submission_id)
        said = self.behaviour.judge(choice.release if choice else None, behaviour, draw).signal()
        _count([said])
        return said

    def keep(
        self, decision: Decision, submission: Submission, choice: Choice, policies: PolicyFile
    ) -> None:
        """Let an answer be given again, where it may; call it before the decision is recorded. It waits for nothing."""
        versions = decision.versions
        by = _judged_by(choice, patterns=versions.patterns, banks=versions.index)
        self._repeated.keep(decision, submission, by, policies)

    def state(self) -> dict[str, str]:
        """Return whether banks and patterns are there and up to date, for anybody: what is wrong is in the log."""
        return {
            "banks": _state(self._banks.version, self._banks.problem, "no active version"),
            "patterns": _state(self._book.version, self._book.problem, "no pattern file"),
        }


def _judged_by(choice: Choice, *, patterns: str | None, banks: str | None) -> JudgedBy:
    return JudgedBy(choice.release, choice.caps, patterns, banks)


def _state(version: str | None, problem: str | None, nothing: str) -> str:
    if problem is not None:
        return "refused; the one before is in force" if version else "refused"
    return "ok" if version else nothing


def _count(signals: Iterable[StageSignal]) -> None:
    for signal in signals:
        SIGNALS.labels(signal.name, signal.status).inc()
