"""Which rows of a training are drawn more often: those of the kinds that attacks turned.

A kind is a policy, its truth, a language and a category: what an attack on words or photos works on. Region, price and
the seller's history are no part of it, as no attack reads them. Hard examples are golden listings; only their kind is
used here, never they themselves.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from moderation.attacks.hard_examples import HardExample

MAX_EMPHASIS: Final = 3.0
"""A class in which some rows are drawn e times as often keeps at least 4e / (1 + e)^2 of its effective sample size
(Kish 1965), whatever their share: 75 % at 3, 64 % at 4."""

_ENOUGH: Final = 10
"""Turned listings that give a kind the whole emphasis: one may be chance, ten of a kind are a weakness."""

Kind = tuple[str, int, str, str]
"""Policy, truth, language, category; the empty word where unknown."""


@dataclass(frozen=True)
class Emphasis:
    """Kind -> how many times as often its rows are drawn; 1 for every other kind."""

    factor: Mapping[Kind, float] = field(default_factory=dict)

    @classmethod
    def of(cls, examples: Iterable[HardExample]) -> "Emphasis":
        """Return the emphasis of some hard examples; a listing counts once, however often it was turned."""
        turned: defaultdict[Kind, set[str]] = defaultdict(set)
        for one in examples:
            like = one.like.get("language", ""), one.like.get("category", "")
            kind = one.policy, int(one.truth), *like
            turned[kind].add(one.submission_id)
        return cls(
            {
                kind: 1 + (MAX_EMPHASIS - 1) * min(1.0, len(listings) / _ENOUGH)
                for kind, listings in sorted(turned.items())
            }
        )

    def of_row(self, record: Mapping[str, Any], policy_ids: Sequence[str]) -> float:
        """Return the largest factor of the kinds that a row is of, 1 where it is of none.

        Args:
            record: columns of a snapshot.
            policy_ids: what the columns of its truth are. Only a row that violates nothing is of a kind of innocents,
                as are the innocents that attacks turned.
        """
        truth: Sequence[int] = record["truth"]
        known = 1 if 1 in truth else 0
        place = record["language"] or "", record["category"] or ""
        kinds = ((p, known, *place) for p, t in zip(policy_ids, truth, strict=True) if t == known)
        return max((self.factor.get(kind, 1.0) for kind in kinds), default=1.0)

    @property
    def digest(self) -> str:
        """SHA-256 of what changes a snapshot; empty where nothing is emphasised."""
        if not self.factor:
            return ""
        return hashlib.sha256(json.dumps(sorted(self.factor.items())).encode()).hexdigest()
