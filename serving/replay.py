"""Replay of one decision: from its recorded signals bit for bit, and scored again from its stored inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ledger.ledger import Ledger
from ledger.recorded import answer_of, behaviour_of, image_digests, listing_of
from ledger.store import ContentStore
from moderation.decision import (
    STATUS_CODES,
    Attempt,
    Decision,
    concluded,
    replay,
    tier_of,
)
from moderation.errors import PermanentError
from moderation.policy import PolicyFile
from moderation.scoring import Scores, ScoringItem
from moderation.stage_1 import Stage1

TOLERANCE: Final = 1e-5
"""How far a probability may be off when it is scored again, on another machine or thread count."""


class Rescorer(Protocol):
    """The loaded bundle that answered."""

    digest: str

    def score(self, items: list[ScoringItem]) -> Scores:
        """Return the scores of `items`."""
        ...

    def combine(
        self, signals_NPM: npt.NDArray[np.float64], signal_status_NPM: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.float64]:
        """Return the probabilities of recorded signals."""
        ...


@dataclass(frozen=True)
class Crossing:
    """A tier that a policy reaches on one side of the replay only."""

    policy: str
    recorded_tier: str
    rescored_tier: str
    recorded: float
    rescored: float


@dataclass(frozen=True)
class ReplayReport:
    """What a replay found."""

    trace_id: str
    release: str | None
    """Bundle that answered; None where stage 1 or the failure policy decided."""

    differences: tuple[str, ...]
    """What the recorded signals do not give again; empty when the replay is exact."""

    max_error: float | None
    """Largest difference of a probability when scored again; None where no model had answered."""

    crossings: tuple[Crossing, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the recorded signals give the recorded decision bit for bit."""
        return not self.differences

    @property
    def is_close(self) -> bool:
        """Whether scoring the stored inputs again gives the recorded probabilities."""
        return self.max_error is None or self.max_error <= TOLERANCE


def replay_decision(
    trace_id: str,
    ledger: Ledger,
    *,
    store: ContentStore,
    scorer: Rescorer | None,
    policies: PolicyFile,
) -> ReplayReport:
    """Return what the decision of `trace_id` gives when it is taken again.

    Args:
        trace_id: names the decision.
        ledger: where it was recorded.
        store: holds its inputs.
        scorer: the bundle that answered; None is enough where no model had answered.
        policies: the policy file of that time.

    Raises:
        PermanentError: if the decision is unknown, or bundle or policies are not those that it was taken with.
    """
    decision = ledger.get_decision(trace_id)
    if decision is None:
        raise PermanentError(f"no decision has the trace id {trace_id}")
    used = f"{policies.version}@sha256:{policies.digest}"
    if decision.versions.policy != used:
        raise PermanentError(f"it was decided by policies {decision.versions.policy}, not {used}")
    answer = answer_of(decision)
    if answer is None:
        return ReplayReport(trace_id, None, _judged_differences(decision, policies), None, ())
    if scorer is None or scorer.digest != answer.release:
        held = scorer.digest if scorer else "no bundle"
        raise PermanentError(f"it was decided by bundle {answer.release}; {held} cannot replay it")
    differences = _signal_differences(answer, scorer) + _judged_differences(decision, policies)
    rescored_P = scorer.score([stored_item(decision, store)]).probability_NP[0]
    recorded_P = np.array([score.probability for score in answer.scores])
    return ReplayReport(
        trace_id,
        answer.release,
        differences,
        float(np.abs(rescored_P - recorded_P).max()),
        _crossings(answer, rescored_P),
    )


def stored_item(decision: Decision, store: ContentStore) -> ScoringItem:
    """Return what was scored, rebuilt from the content store and the recorded features."""
    listing, (values_F, status_F) = listing_of(decision, store), behaviour_of(decision)
    images = [store.get(digest) for digest in image_digests(decision)]
    return ScoringItem(listing.title, listing.description, images, values_F, status_F)


def _signal_differences(answer: Attempt, scorer: Rescorer) -> tuple[str, ...]:
    """Return the policies whose recorded signals do not combine to the recorded probability, to the last bit."""
    signals_NPM = np.array([[[s.value or 0.0 for s in p.signals] for p in answer.scores]])
    codes = [[[STATUS_CODES[s.status] for s in p.signals] for p in answer.scores]]
    again_P = scorer.combine(signals_NPM, np.array(codes, np.int8))[0]
    return tuple(
        f"{score.policy}: the signals give {float(again)!r}, recorded is {score.probability!r}"
        for score, again in zip(answer.scores, again_P, strict=True)
        if float(again) != score.probability
    )


def _judged_differences(decision: Decision, policies: PolicyFile) -> tuple[str, ...]:
    tier, codes = replay(decision, policies)
    found = list(_stage_1_differences(decision, policies))
    if tier != decision.tier:
        found.append(f"tier: {tier} again, recorded is {decision.tier}")
    if codes != decision.reason_codes:
        found.append(f"reason codes: {codes} again, recorded are {decision.reason_codes}")
    return tuple(found)


def _stage_1_differences(decision: Decision, policies: PolicyFile) -> Iterator[str]:
    """Yield where the signals of stage 1 do not give again what is recorded of it, or of who decided."""
    by = concluded(decision, policies).decided_by
    wanted = "duplicate" if decision.duplicate_of else by
    if decision.decided_by != wanted:
        yield f"decided by: {wanted} again, recorded is {decision.decided_by}"
    recorded = decision.stage_1
    if recorded is not None:
        again = Stage1.of(recorded.signals, policies, latency_ms=recorded.latency_ms)
        if again != recorded:
            said = f"{again.tier} {again.reason_codes} again"
            yield f"stage 1: {said}, recorded is {recorded.tier} {recorded.reason_codes}"


def _crossings(answer: Attempt, rescored_P: npt.NDArray[np.float64]) -> tuple[Crossing, ...]:
    found = []
    for score, rescored in zip(answer.scores, rescored_P.tolist(), strict=True):
        limits = answer.thresholds.get(score.policy, {})
        before, after = tier_of(score.probability, limits), tier_of(rescored, limits)
        if before != after:
            found.append(
                Crossing(score.policy, before.label, after.label, score.probability, rescored)
            )
    return tuple(found)
