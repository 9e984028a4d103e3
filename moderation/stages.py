"""The stages that look things up: analysts' patterns in the text, banks of known images."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from moderation.bank_entries import ANY_POLICY
from moderation.banks import BankMatch, Banks, BankSignal
from moderation.image import pdq
from moderation.pattern_book import PatternBook
from moderation.patterns import PatternHit
from moderation.policy import Tier
from moderation.prefilter import Incoming
from moderation.serving_rules import BankRules
from moderation.stage_1 import Evidence, StageSignal

MAX_SHOWN: Final = 50
"""Hits or matches that one signal tells."""


class PatternStage:
    """Looks for patterns; a hit raises the tier to `tag` or `review`, never more, and never decides."""

    name: Final = "patterns"
    cost: Final = 0.5

    def __init__(self, book: PatternBook) -> None:
        self._book = book

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        """Return one signal for each policy with a hit, or one for all."""
        said = self._book.match(upload.title, upload.description)
        if said is None:
            return [StageSignal(name=self.name, status="missing", reason="no_pattern_file")]
        version = f"{said.version}@sha256:{said.digest}"
        by_policy: dict[str, list[PatternHit]] = {}
        for hit in said.hits:
            by_policy.setdefault(hit.policy, []).append(hit)
        reason = "cut" if said.is_cut else said.reason
        if not by_policy:
            return [StageSignal(name=self.name, status=said.status, reason=reason, version=version)]
        return [
            StageSignal(
                name=self.name,
                policy=policy,
                status="ok",
                reason=reason,
                version=version,
                tier=max((hit.tier for hit in hits), key=lambda tier: Tier[tier.upper()]),
                found=tuple(_hit(hit) for hit in hits[:MAX_SHOWN]),
            )
            for policy, hits in by_policy.items()
        ]


class BankStage:
    """Looks images up; a known-bad one decides, unless a known-good one contests it.

    Args:
        banks: known images.
        rules: which tiers follow.
        policies: ids that are in force; a match under another one cannot be acted upon, which is an error.
    """

    name: Final = "banks"
    cost: Final = 20.0

    def __init__(self, banks: Banks, rules: BankRules, policies: Collection[str]) -> None:
        self._banks, self._rules, self._policies = banks, rules, policies

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        """Return, of every image, one signal for each policy with a match, or one for all."""
        version = self._banks.version
        if version is None:
            problem = self._banks.problem
            status, reason = ("error", problem) if problem else ("missing", "no_active_version")
            return [
                StageSignal.model_validate({"name": self.name, "status": status, "reason": reason})
            ]
        if not upload.views:
            return [
                StageSignal(name=self.name, status="missing", reason="no_image", version=version)
            ]
        return [
            signal
            for place, view in enumerate(upload.views)
            for signal in self._of_image(place, self._banks.lookup(*pdq(view)))
        ]

    def _of_image(self, place: int, said: BankSignal) -> Iterator[StageSignal]:
        plain = StageSignal(
            name=self.name,
            status=said.status,
            reason=said.reason,
            version=said.version,
            found=({"image": place},),
        )
        policies = sorted({one.policy for one in said.matches if one.kind == "match"})
        if not policies:
            good = _evidence(place, said.matches)
            yield plain.model_copy(update={"found": good}) if good else plain
            return
        for policy in policies:
            yield self._of_policy(place, policy, said)

    def _of_policy(self, place: int, policy: str, said: BankSignal) -> StageSignal:
        about = [one for one in said.matches if one.policy in (policy, ANY_POLICY)]
        fields = {
            "name": self.name,
            "policy": policy,
            "status": "ok",
            "version": said.version,
            "value": float(min(one.distance for one in about if one.kind == "match")),
            "found": _evidence(place, about),
        }
        if policy not in self._policies:
            fields |= {"status": "error", "reason": f"policy {policy} is not in force"}
        elif policy not in (said.known_bad or ()):
            fields |= {"reason": "silenced"}
        elif any(one.kind == "negative" for one in about):
            fields |= {"reason": "contested", "tier": self._rules.contested}
        else:
            fields |= {"tier": self._rules.tier, "is_decisive": True}
        return StageSignal.model_validate(fields)


def _hit(hit: PatternHit) -> Evidence:
    return {
        "pattern": hit.pattern_id,
        "tier": hit.tier,
        "field": hit.field,
        "begin": hit.span.begin,
        "end": hit.span.end,
        "reading": hit.reading,
    }


def _evidence(place: int, matches: Sequence[BankMatch]) -> tuple[Evidence, ...]:
    return tuple(
        {
            "image": place,
            "entry": one.entry_id,
            "bank": one.bank,
            "kind": one.kind,
            "policy": one.policy,
            "distance": one.distance,
        }
        for one in matches[:MAX_SHOWN]
    )
