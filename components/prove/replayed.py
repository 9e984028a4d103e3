"""Recorded decisions as a frozen set: what was decided of the newest traffic, and what the candidate decides of it.

N rows, P policies of the candidate, F behaviour features.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import numpy as np

from components.prove.collector import collector_paused
from components.prove.frozen import FrozenRows
from ledger.events import EventKind, to_decision
from ledger.ledger import Ledger
from ledger.recorded import answer_of, behaviour_of, image_digests, listing_in
from ledger.store import ContentMissing, ContentStore
from moderation.decision import STATUS_CODES, SignalStatus, effective_thresholds
from moderation.embedding_cache import EmbeddingCache
from moderation.ensemble import MAX_LOGIT
from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import Answers, Floats, ScoredSet
from moderation.listing import Submission
from moderation.policy import PolicyFile
from moderation.release import SliceRules
from moderation.rescoring import LazyImage, LazyItem, Progress, Readings, rescore
from moderation.scores import Codes, Vectors
from moderation.scoring import Scorer
from moderation.snapshot_rows import SnapshotRow, links_of, to_record
from moderation.splitting import group_rows

NAME: Final = "replay"
_REMEDY: Final = "let the gateway decide traffic (`tidegate serve`), then prove the candidate again"
_OK: Final = STATUS_CODES[SignalStatus.OK]

BY_FAILURE_POLICY: Final = "decided by the failure policy"
BY_STAGE_1: Final = "decided by stage 1 without a model"
BY_OTHERS: Final = "decided by another release or under other thresholds"
BY_ITSELF: Final = "decided by the candidate itself"
ERASED: Final = "inputs erased"


class OnlyOwnDecisions(InvalidSnapshot):
    """All that a release decided in the window was decided by the candidate: taken again it shows nothing."""


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


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a replay takes from one decision of a release: little of the event, which is not kept."""

    release: str
    """Release and thresholds, as text."""

    decided_at: datetime
    submission_id: str
    submitted_at: datetime
    seller_id: str | None
    listing: str
    images: tuple[str, ...]
    probability: dict[str, float]
    """By policy."""

    values_F: Vectors
    status_F: Codes


@dataclass(frozen=True)
class _Read:
    """One decision that a release took, with its inputs."""

    answered: _Answered
    submission: Submission
    item: LazyItem


@collector_paused()  # over many small records it would look at each again and again
def recorded_rows(
    ledger: Ledger,
    store: ContentStore,
    policies: Sequence[str],
    window: Window,
    seed: int,
    *,
    besides: str | None = None,
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
        besides: digest of a candidate whose own decisions are left out, however many they are; None: of none.

    Raises:
        InvalidSnapshot: if no decision is left.
        OnlyOwnDecisions: if no release but `besides` decided anything.
    """
    until = window.until or ledger.newest_at((EventKind.DECISION,))
    decisions = [] if until is None else list(_decisions(ledger, window, until))
    if not decisions or until is None:
        raise InvalidSnapshot(f"{_why_none(ledger, window, until)}; {_REMEDY}")
    left_out: Counter[str] = Counter()
    if besides is not None:
        others = _by_others(decisions, besides)
        if not any(isinstance(one, _Answered) for one in others):
            raise _only_own(decisions, others, ledger, window, until)
        left_out[BY_ITSELF] = len(decisions) - len(others)
        decisions = others
    sampled = _sample(decisions, window.most, seed)
    found = list(_with_inputs(_of_one_release(sampled, left_out), store, left_out))
    if not found:
        raise InvalidSnapshot(
            f"of {len(sampled)} decisions in {_span(window, until)} none can be taken again "
            f"({_told(left_out)}); {_REMEDY}"
        )
    rows = _frozen(found, tuple(policies), len(decisions) / len(sampled))
    answers = _recorded_answers(found, tuple(policies))
    facts = {
        "replayed decisions": f"{len(found)} of {len(decisions)}, {_span(window, until)}",
        "replayed release": answers.bundle[:12],
    }
    if left_out:
        facts["not replayed"] = _told(left_out)
    return Recorded(rows, answers, until, facts)


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


def _decisions(ledger: Ledger, window: Window, until: datetime) -> Iterator[_Answered | str]:
    """Yield the decisions of the window, or why one cannot be taken again; their events are dropped as they come."""
    since = _since(window, until)
    known: dict[str, str] = {}
    for stored in ledger.read((EventKind.DECISION,), until=until, since=since):
        if stored.event.occurred_at != window.until:
            decision = to_decision(stored.event)
            answer = answer_of(decision)
            if answer is None:
                yield BY_STAGE_1 if decision.decided_by == "stage_1" else BY_FAILURE_POLICY
            else:
                release = json.dumps([answer.release, answer.thresholds], sort_keys=True)
                yield _Answered(
                    known.setdefault(release, release),
                    decision.decided_at,
                    decision.submission_id,
                    decision.submitted_at,
                    stored.event.seller_id,
                    decision.input_digests["listing"],
                    image_digests(decision),
                    {score.policy: score.probability for score in answer.scores},
                    *behaviour_of(decision),
                )


def _by_others(decisions: Sequence[_Answered | str], own: str) -> list[_Answered | str]:
    """Return the decisions that a release of this digest did not take, under whatever thresholds."""
    releases = {one.release for one in decisions if isinstance(one, _Answered)}
    owned = {release for release in releases if json.loads(release)[0] == own}
    return [one for one in decisions if isinstance(one, str) or one.release not in owned]


def _only_own(
    decisions: Sequence[_Answered | str],
    others: Sequence[_Answered | str],
    ledger: Ledger,
    window: Window,
    until: datetime,
) -> InvalidSnapshot:
    """Return what to say where nobody else decided: of erased sellers nobody knows who did, so they must be fewer."""
    own, where = len(decisions) - len(others), _span(window, until)
    erased = ledger.num_events((EventKind.DECISION,), since=_since(window, until)) - len(decisions)
    if erased >= own:
        return InvalidSnapshot(
            f"{own} decisions in {where} are the candidate's own, and who took {erased} others is not known: their "
            f"sellers are erased; {_REMEDY}"
        )
    return OnlyOwnDecisions(
        f"all {own} decisions that a release took in {where} are the candidate's own: taken again they show nothing"
    )


def _why_none(ledger: Ledger, window: Window, until: datetime | None) -> str:
    erased = ledger.num_events((EventKind.DECISION,)) if until is None else 0
    if erased:
        return f"all {erased} recorded decisions are of erased sellers: none can be read"
    return f"no decision was recorded{f' in {_span(window, until)}' if until else ''}"


def _since(window: Window, until: datetime) -> datetime:
    return until - timedelta(days=window.days, microseconds=1)


def _sample(decisions: Sequence[_Answered | str], most: int, seed: int) -> list[_Answered | str]:
    if len(decisions) <= most:
        return list(decisions)
    chosen = np.random.default_rng(seed).choice(len(decisions), most, replace=False)
    return [decisions[place] for place in np.sort(chosen).tolist()]


def _of_one_release(
    decisions: Iterable[_Answered | str], left_out: Counter[str]
) -> list[_Answered]:
    """Return the decisions of the release and thresholds that took most; of as many, the newest ones."""
    by_release: dict[str, list[_Answered]] = {}
    for one in decisions:
        if isinstance(one, str):
            left_out[one] += 1
        else:
            by_release.setdefault(one.release, []).append(one)
    if not by_release:
        return []
    kept = max(by_release.values(), key=lambda found: (len(found), found[-1].decided_at))
    others = sum(map(len, by_release.values())) - len(kept)
    if others:
        left_out[BY_OTHERS] += others
    return kept


def _with_inputs(
    decisions: Iterable[_Answered], store: ContentStore, left_out: Counter[str]
) -> Iterator[_Read]:
    for one in decisions:
        try:
            listing = listing_in(store, one.listing, one.seller_id)
        except ContentMissing:
            left_out[ERASED] += 1
            continue
        if not all(store.has(digest, one.seller_id) for digest in one.images):
            left_out[ERASED] += 1
            continue
        submission = Submission(
            submission_id=one.submission_id,
            listing=listing,
            image_digests=one.images,
            submitted_at=one.submitted_at,
        )
        images = tuple(
            LazyImage(bytes.fromhex(digest), partial(store.get, digest, one.seller_id))
            for digest in one.images
        )
        texts = (listing.title, listing.description)
        yield _Read(one, submission, LazyItem(*texts, images, one.values_F, one.status_F))


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
    values_F, is_known_F = one.answered.values_F, one.answered.status_F == _OK
    known_F = np.where(is_known_F, values_F, np.nan).astype(np.float32)
    return to_record(SnapshotRow(one.submission, known_F, {}), policies)


def _recorded_answers(found: Sequence[_Read], policies: tuple[str, ...]) -> Answers:
    """Return what was recorded; a policy that no head judged then has probability 0 and no tier."""
    probability_NP = np.zeros((len(found), len(policies)))
    for row, one in enumerate(found):
        said = one.answered.probability
        probability_NP[row] = [said.get(policy, 0.0) for policy in policies]
    release, thresholds = json.loads(found[0].answered.release)
    return Answers(str(release), probability_NP, _log_odds(probability_NP), thresholds)


def _log_odds(probability_NP: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        odds_NP: Floats = np.log(probability_NP) - np.log1p(-probability_NP)
    return np.clip(odds_NP, -MAX_LOGIT, MAX_LOGIT)


def _span(window: Window, until: datetime) -> str:
    length = f"{window.days} day{'s' * (window.days > 1)}"
    return f"the {length} before {until:%Y-%m-%d %H:%M} UTC"


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
