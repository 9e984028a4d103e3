"""Recorded decisions as a frozen set: what was decided of the newest traffic, and what the candidate decides of it.

N rows, P policies of the candidate, F behaviour features.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import numpy as np

from components.prove.collector import collector_paused
from components.prove.frozen import FrozenRows
from ledger.events import Event, EventKind, to_decision
from ledger.ledger import Ledger
from ledger.recorded import answer_of, behaviour_of, image_digests, listing_of
from ledger.store import ContentMissing, ContentStore
from moderation.decision import STATUS_CODES, Attempt, Decision, SignalStatus, effective_thresholds
from moderation.embedding_cache import EmbeddingCache
from moderation.ensemble import MAX_LOGIT
from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import Answers, Floats, ScoredSet
from moderation.listing import Submission
from moderation.policy import PolicyFile
from moderation.release import SliceRules
from moderation.rescoring import LazyImage, LazyItem, Progress, Readings, rescore
from moderation.scoring import Scorer
from moderation.snapshot_rows import SnapshotRow, links_of, to_record
from moderation.splitting import group_rows

NAME: Final = "replay"
_REMEDY: Final = "let the gateway decide traffic (`tidegate serve`), then prove the candidate again"
_OK: Final = STATUS_CODES[SignalStatus.OK]

BY_FAILURE_POLICY: Final = "decided by the failure policy"
BY_STAGE_1: Final = "decided by stage 1 without a model"
BY_OTHERS: Final = "decided by another release or under other thresholds"
ERASED: Final = "inputs erased"


@dataclass(frozen=True)
class Window:
    """Which recorded decisions are taken again: those of the last days before an instant."""

    days: int
    most: int
    """Decisions; of more, a sample is drawn."""

    until: datetime | None = None
    """Exclusive; None: up to and with the newest decision."""


@dataclass(frozen=True)
class Recorded:
    """Decisions of one release under one set of thresholds, with what they were decided from."""

    rows: FrozenRows
    answers: Answers
    until: datetime
    facts: dict[str, str]
    """What was taken and what was left out, for people."""


@dataclass(frozen=True)
class _Read:
    """One decision that a release took, with its inputs."""

    decision: Decision
    answer: Attempt
    submission: Submission
    item: LazyItem


@collector_paused()  # over some million small records it takes two thirds of the time
def recorded_rows(
    ledger: Ledger,
    store: ContentStore,
    policies: Sequence[str],
    window: Window,
    seed: int,
) -> Recorded:
    """Return the decisions of a window by the release that took most of them.

    Left out and counted are decisions by stage 1 alone, by the failure policy, by another release or under other
    thresholds (no two sets of thresholds can be compared with the candidate's at once), and those whose inputs were
    erased.

    Args:
        ledger: holds the decisions.
        store: holds their inputs.
        policies: of the candidate; one that was not recorded let everything pass.
        window: which decisions.
        seed: draws the sample where there are too many.

    Raises:
        InvalidSnapshot: if no decision is left.
    """
    events, until = _newest(ledger, window)
    if not events or until is None:
        where = f" in {_span(window, until)}" if until else ""
        raise InvalidSnapshot(f"no decision was recorded{where}; {_REMEDY}")
    sampled = _sample(events, window.most, seed)
    left_out: Counter[str] = Counter()
    kept = _of_one_release([to_decision(event) for event in sampled], left_out)
    found = list(_with_inputs(kept, store, left_out))
    if not found:
        raise InvalidSnapshot(
            f"of {len(sampled)} decisions in {_span(window, until)} none can be taken again "
            f"({_told(left_out)}); {_REMEDY}"
        )
    rows = _frozen(found, tuple(policies), len(events) / len(sampled))
    facts = {
        "replayed decisions": f"{len(found)} of {len(events)}, {_span(window, until)}",
        "replayed release": str(found[0].answer.release)[:12],
    }
    if left_out:
        facts["not replayed"] = _told(left_out)
    return Recorded(rows, _recorded_answers(found, tuple(policies)), until, facts)


def replayed_set(
    recorded: Recorded,
    candidate: Scorer,
    cache: EmbeddingCache,
    policies: PolicyFile,
    rules: SliceRules,
    *,
    num_threads: int = 1,
    readings: Readings | None = None,
    progress: Progress | None = None,
) -> ScoredSet:
    """Return the set `replay`: as champion what was recorded, as candidate what is decided now.

    Args:
        recorded: from `recorded_rows`, under the candidate's policies.
        candidate: decides again, under its thresholds with the manual overrides that held then.
        cache: of embeddings.
        policies: the policy file.
        rules: of the slices.
        num_threads: images that are embedded side by side.
        readings: of texts that were read before.
        progress: called with (listings done, listings in all).

    Raises:
        BundleRejected: if the candidate refuses to answer.
    """
    (scores,) = rescore(
        recorded.rows.items,
        [candidate],
        cache,
        num_threads=num_threads,
        readings=readings,
        progress=progress,
    )
    answers = Answers(
        candidate.digest,
        scores.probability_NP,
        candidate.log_odds(scores.signals_NPM, scores.signal_status_NPM),
        effective_thresholds(candidate.thresholds, policies, recorded.until),
    )
    return recorded.rows.scored(answers, recorded.answers, rules)


def _newest(ledger: Ledger, window: Window) -> tuple[list[Event], datetime | None]:
    """Return the decisions of the window, and its end (None: there is none); older ones are dropped as they come."""
    length = timedelta(days=window.days)
    held: deque[Event] = deque()
    newest: datetime | None = None
    for stored in ledger.read((EventKind.DECISION,), until=window.until):
        event = stored.event
        if window.until is not None and event.occurred_at >= window.until:
            continue
        newest = event.occurred_at if newest is None else max(newest, event.occurred_at)
        held.append(event)
        while held and held[0].occurred_at < (window.until or newest) - length:
            held.popleft()
    until = window.until or newest
    return [event for event in held if until and event.occurred_at >= until - length], until


def _sample(events: Sequence[Event], most: int, seed: int) -> list[Event]:
    if len(events) <= most:
        return list(events)
    chosen = np.random.default_rng(seed).choice(len(events), most, replace=False)
    return [events[place] for place in np.sort(chosen).tolist()]


def _of_one_release(
    decisions: Iterable[Decision], left_out: Counter[str]
) -> list[tuple[Decision, Attempt]]:
    """Return the decisions of the release and thresholds that took most; of as many, the newest ones."""
    by_release: dict[str, list[tuple[Decision, Attempt]]] = {}
    for decision in decisions:
        answer = answer_of(decision)
        if answer is None:
            is_stage_1 = decision.decided_by == "stage_1"
            left_out[BY_STAGE_1 if is_stage_1 else BY_FAILURE_POLICY] += 1
            continue
        key = json.dumps([answer.release, answer.thresholds], sort_keys=True)
        by_release.setdefault(key, []).append((decision, answer))
    if not by_release:
        return []
    kept = max(by_release.values(), key=lambda found: (len(found), found[-1][0].decided_at))
    others = sum(map(len, by_release.values())) - len(kept)
    if others:
        left_out[BY_OTHERS] += others
    return kept


def _with_inputs(
    decisions: Iterable[tuple[Decision, Attempt]], store: ContentStore, left_out: Counter[str]
) -> Iterator[_Read]:
    for decision, answer in decisions:
        digests = image_digests(decision)
        try:
            listing = listing_of(decision, store)
        except ContentMissing:
            left_out[ERASED] += 1
            continue
        if not all(map(store.has, digests)):
            left_out[ERASED] += 1
            continue
        submission = Submission(
            submission_id=decision.submission_id,
            listing=listing,
            image_digests=digests,
            submitted_at=decision.submitted_at,
        )
        yield _Read(decision, answer, submission, _item(decision, submission, store.get))


def _item(decision: Decision, submission: Submission, read: Callable[[str], bytes]) -> LazyItem:
    values_F, status_F = behaviour_of(decision)
    images = tuple(
        LazyImage(bytes.fromhex(digest), partial(read, digest))
        for digest in submission.image_digests
    )
    listing = submission.listing
    return LazyItem(listing.title, listing.description, images, values_F, status_F)


def _frozen(found: Sequence[_Read], policies: tuple[str, ...], weight: float) -> FrozenRows:
    group_N = group_rows([list(links_of(one.submission)) for one in found])
    records = tuple(
        _record(one, policies) | {"group": group, "weight": weight}
        for one, group in zip(found, group_N.tolist(), strict=True)
    )
    shape = (len(found), len(policies))
    return FrozenRows(
        name=NAME,
        policies=policies,
        records=records,
        truth_NP=np.full(shape, -1, np.int8),
        adjudicated_NP=np.zeros(shape, bool),
        items=tuple(one.item for one in found),
    )


def _record(one: _Read, policies: tuple[str, ...]) -> dict[str, Any]:
    values_F, status_F = behaviour_of(one.decision)
    known_F = np.where(status_F == _OK, values_F, np.nan).astype(np.float32)
    return to_record(SnapshotRow(one.submission, known_F, {}), policies)


def _recorded_answers(found: Sequence[_Read], policies: tuple[str, ...]) -> Answers:
    """Return what was recorded; a policy that no head judged then has probability 0 and no tier."""
    probability_NP = np.zeros((len(found), len(policies)))
    for row, one in enumerate(found):
        said = {score.policy: score.probability for score in one.answer.scores}
        probability_NP[row] = [said.get(policy, 0.0) for policy in policies]
    answer = found[0].answer
    return Answers(
        str(answer.release), probability_NP, _log_odds(probability_NP), dict(answer.thresholds)
    )


def _log_odds(probability_NP: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        odds_NP: Floats = np.log(probability_NP) - np.log1p(-probability_NP)
    return np.clip(odds_NP, -MAX_LOGIT, MAX_LOGIT)


def _span(window: Window, until: datetime) -> str:
    length = f"{window.days} day{'s' * (window.days > 1)}"
    return f"the {length} before {until:%Y-%m-%d %H:%M} UTC"


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
