"""Why a listing scored as it did, as a reviewer reads it: the record that the explainer makes and others show.

Everything here is evidence: it quotes the listing and shows its images, and is for reviewers alone.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Grid = Annotated[tuple[tuple[float, ...], ...], Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MemberShare(_Frozen):
    """One member's part of the ensemble's log-odds."""

    member: str
    logit: float | None
    """What it said; None where it did not answer."""

    weight: float
    share: float
    """weight * logit, where the ensemble cuts logits beyond 40."""


class Piece(_Frozen):
    """A stretch of the listing's text as it came, and what it adds to a member's logit or to the log-odds."""

    field: Literal["title", "description"]
    begin: int
    end: int
    text: str
    score: float


class TextPart(_Frozen):
    """What pieces of the text add; with `rest` they sum to `total`."""

    pieces: tuple[Piece, ...]
    """Largest first, by size whatever the sign."""

    rest: float
    """Of what has no place in the text: special tokens, signs of obfuscation, pieces that were left out."""

    total: float
    """What is explained: a difference to the empty text for the tower, the whole logit for the n-gram model."""

    gap: float
    """By how much pieces and rest miss `total`, of numerical integration; 0 where the sum is exact."""


class Heat(_Frozen):
    """Where in one image the score comes from."""

    image: int
    """Place in the listing."""

    grid: Grid
    """Rows of cells from 0 to 1; all 0 where nothing in the image raises the score."""

    strength: float
    """The hottest cell before scaling: compares the images of one listing."""

    box: tuple[float, float, float, float]
    """left, top, right, bottom in pixels: the central square that the model reads."""

    overlay_png: str
    """The square with its heat, PNG in base64."""


class FeatureShare(_Frozen):
    """What one behaviour feature adds to the trees' logit."""

    feature: str
    value: float | None
    """None where it was missing."""

    score: float


class BehaviourPart(_Frozen):
    """What the behaviour features add; with `base` they sum to the member's logit."""

    base: float
    features: tuple[FeatureShare, ...]


class Explanation(_Frozen):
    """Why one bundle gave one listing its score under one policy."""

    bundle: str
    policy: str
    log_odds: float
    base: float
    """What the ensemble says of a listing whose members are all undecided; with the shares it sums to `log_odds`."""

    members: tuple[MemberShare, ...]
    heat: tuple[Heat, ...] = ()
    """By Grad-CAM, of the image and fusion members' part of the log-odds."""

    text: TextPart | None = None
    """By integrated gradients, of the text and fusion members' part of the log-odds."""

    ngram: TextPart | None = None
    behaviour: BehaviourPart | None = None
