"""Answers that a seller's same upload may get again: which uploads are the same, and a bounded memory of them."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from moderation.clock import Clock
from moderation.listing import Submission
from moderation.policy import PolicyFile
from moderation.serving_rules import DuplicateRules

_IDS: Final = {"listing_id"}


class JudgedBy(NamedTuple):
    """Everything that an answer rests on beside the upload and the seller's behaviour."""

    release: str
    caps: Mapping[str, str]
    """Policy -> weakest tier that stays closed."""

    patterns: str | None
    banks: str | None


def repeat_key(
    submission: Submission, by: JudgedBy, policies: PolicyFile, at: datetime
) -> str | None:
    """Return what two uploads share that must get the same answer; None where nobody is named as the seller.

    Same are all fields of the listing but its own id, the bytes of the images in their order, what judges, and what
    depends on the day: overrides that end, patterns that expire.
    """
    if submission.listing.seller_id is None:
        return None
    held = [place for place, one in enumerate(policies.overrides) if at < one.until]
    content = {
        "listing": submission.listing.model_dump(mode="json", exclude=_IDS),
        "images": submission.image_digests,
        "by": [by.release, dict(by.caps), by.patterns, by.banks],
        "policies": [policies.digest, held],
        "day": at.date().isoformat(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Kept(NamedTuple):
    """Where an answer is recorded."""

    submission_id: str
    decision_id: str


@dataclass
class _Entry:
    kept: Kept
    since_s: float
    repeated_by: list[str] = field(default_factory=list)
    """Submissions that were given it again."""


class Repeats:
    """Which answers may be given again: the newest, for a while, a few times. Safe to share between threads."""

    def __init__(self, rules: DuplicateRules, clock: Clock) -> None:
        self._rules, self._clock = rules, clock
        self._lock = threading.Lock()
        self._by_key: OrderedDict[str, _Entry] = OrderedDict()
        self._key_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def keep(self, key: str, kept: Kept) -> None:
        """Keep a fresh answer in place of an earlier one; the oldest goes where there are too many."""
        if not self._rules.max_repeats:
            return
        with self._lock:
            self._drop(key)
            self._by_key[key] = _Entry(kept, self._clock.monotonic())
            self._key_of[kept.submission_id] = key
            while len(self._by_key) > self._rules.max_answers:
                self._drop(next(iter(self._by_key)))

    def take(self, key: str, submission_id: str) -> Kept | None:
        """Return the answer that another upload may get again, and count that it does; None: ask the model."""
        with self._lock:
            entry = self._by_key.get(key)
            if entry is None or submission_id in (entry.kept.submission_id, *entry.repeated_by):
                return None
            is_old = self._clock.monotonic() - entry.since_s > self._rules.window_s
            if is_old or len(entry.repeated_by) >= self._rules.max_repeats:
                self._drop(key)
                return None
            entry.repeated_by.append(submission_id)
            self._key_of[submission_id] = key
            return entry.kept

    def forget(self, submission_ids: Collection[str]) -> None:
        """Never again give the answers that these submissions got."""
        with self._lock:
            for submission_id in submission_ids:
                if submission_id in self._key_of:
                    self._drop(self._key_of[submission_id])

    def _drop(self, key: str) -> None:
        entry = self._by_key.pop(key, None)
        if entry is not None:
            for submission_id in (entry.kept.submission_id, *entry.repeated_by):
                self._key_of.pop(submission_id, None)
