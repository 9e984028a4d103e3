"""Policies, tiers and reason codes: loads and checks a policy file. P policies are data; no name of one is in code."""

import hashlib
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moderation.errors import PolicyError
from moderation.yaml_lines import line_of, load, repeated

Share = Annotated[float, Field(ge=0, le=1)]
OnFailure = Literal["allow_and_review", "review"]
"""What becomes of an upload that no model judged: it passes and is looked at, or it waits until it was looked at."""


class Tier(IntEnum):
    """What a decision does, ordered: the strongest wins."""

    ALLOW = 0
    TAG = 1
    REVIEW = 2
    BLOCK = 3
    SUSPEND = 4

    @property
    def label(self) -> str:
        """The tier's name in files, metrics and answers."""
        return self.name.lower()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TierBound(_Frozen):
    """What a tier must be shown to hold before it may open."""

    precision: Share
    """Lower confidence bound of the precision among the listings that the tier takes."""

    max_share: Share | None = None
    """Share of traffic that the tier takes at most where its precision cannot be shown; None closes it instead."""


class TierBounds(_Frozen):
    """One bound per tier above `allow`."""

    tag: TierBound
    review: TierBound
    block: TierBound
    suspend: TierBound

    def of(self, tier: Tier) -> TierBound:
        """Return the bound of `tier`."""
        bound: TierBound = getattr(self, tier.label)
        return bound

    @model_validator(mode="after")
    def _stronger_is_stricter(self) -> "TierBounds":
        bounds = [
            self.tag.precision,
            self.review.precision,
            self.block.precision,
            self.suspend.precision,
        ]
        if bounds != sorted(bounds):
            raise ValueError("a stronger tier needs at least the precision of the weaker one")
        if self.review.max_share is None:
            raise ValueError("review needs max_share: it is where every closed tier falls to")
        return self


class Policy(_Frozen):
    """One guideline with its own model head."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    title: str
    reason_code: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{2,47}$")]
    seller_message: str
    tiers: TierBounds
    keywords: tuple[str, ...] = ()
    """Literal words of the keyword baseline; evidence for reviewers, never shown to a seller."""


class Override(_Frozen):
    """A threshold set by hand, for a reason and until a date."""

    policy: str
    tier: Literal["tag", "review", "block", "suspend"]
    threshold: Share
    reason: Annotated[str, Field(min_length=8)]
    by: Annotated[str, Field(min_length=2)]
    until: datetime


class PolicyFile(_Frozen):
    """Every policy of a marketplace, with its version and the digest of its bytes."""

    version: str
    digest: str
    on_failure: OnFailure = "allow_and_review"
    on_failure_by_category: dict[Annotated[str, Field(min_length=1, max_length=64)], OnFailure] = (
        Field(default_factory=dict)
    )
    """Categories of listings that are treated differently; spelled in any case."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    policies: Annotated[tuple[Policy, ...], Field(min_length=1, max_length=64)]
    overrides: tuple[Override, ...] = ()

    def on_failure_in(self, category: str | None) -> OnFailure:
        """Return what becomes of an upload of a category that no model judged."""
        wanted = (category or "").strip().casefold()
        named = {
            name.strip().casefold(): said for name, said in self.on_failure_by_category.items()
        }
        return named.get(wanted, self.on_failure)

    @property
    def ids(self) -> tuple[str, ...]:
        """Policy ids in order: the columns of every P axis."""
        return tuple(policy.id for policy in self.policies)

    @model_validator(mode="after")
    def _names_agree(self) -> "PolicyFile":
        for what in ("id", "reason_code"):
            values = [getattr(policy, what) for policy in self.policies]
            if len(set(values)) < len(values):
                raise ValueError(f"two policies share one {what}: {values}")
        strangers = {override.policy for override in self.overrides} - set(self.ids)
        if strangers:
            raise ValueError(f"overrides name unknown policies: {sorted(strangers)}")
        spelled = [name.strip().casefold() for name in self.on_failure_by_category]
        twice = sorted({name for name in spelled if spelled.count(name) > 1})
        if twice:
            raise ValueError(f"on_failure_by_category: one category is there twice: {twice}")
        return self


@lru_cache(maxsize=8)
def load_policies(path: Path) -> PolicyFile:
    """Return the checked policies of a YAML file.

    Raises:
        PolicyError: naming the file, the line and each wrong field.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    return parse_policies(raw, str(path))


def parse_policies(raw: bytes, origin: str) -> PolicyFile:
    """Return the checked policies of a policy file's bytes; the digest is that of the bytes.

    Args:
        raw: YAML in UTF-8.
        origin: where the bytes came from, for people.

    Raises:
        PolicyError: naming the origin, the line and each wrong field.
    """
    try:
        node, content = load(raw)
    except ValueError as error:
        raise PolicyError(f"{origin}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise PolicyError(f"{origin}: a mapping with version, policies, ... is expected")
    twice = [_explain(origin, node, loc, "is said twice") for loc in repeated(node)]
    if twice:
        raise PolicyError("; ".join(twice))
    content = {
        key: value for key, value in content.items() if key != "tiers"
    }  # only an anchor for the policies
    content |= {
        "digest": hashlib.sha256(raw).hexdigest(),
        "version": str(content.get("version", "")),
    }
    try:
        return PolicyFile.model_validate(content)
    except ValidationError as error:
        wrong = [_explain(origin, node, one["loc"], one["msg"]) for one in error.errors()]
        raise PolicyError("; ".join(wrong)) from error


def _explain(origin: str, node: Any, loc: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if (
        not loc
    ):  # a check over the whole file may name its field itself: "on_failure_by_category: ..."
        return f"{origin}:{line_of(node, (message.partition(':')[0],))}: {message}"
    return f"{origin}:{line_of(node, loc)}: {'.'.join(map(str, loc))}: {message}"
