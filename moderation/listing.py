"""Listing, Submission, GroundTruth, Reversal: their shape and hard limits, checked once where they enter."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from moderation.errors import InvalidListing

MAX_TITLE_CHARS: Final = 300
MAX_DESCRIPTION_CHARS: Final = 20_000
MAX_IMAGES: Final = 8
MAX_IMAGE_BYTES: Final = 10 * 2**20
MAX_PRICE: Final = 1e9

# ISO 4217 codes that the marketplace trades in; an unknown one is an error, never a guess.
CURRENCIES: Final = frozenset(
    "AED ARS AUD BDT BGN BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP HKD HUF IDR ILS INR JPY KES KRW KZT MAD MXN MYR "
    "NGN NOK NZD PEN PHP PKR PLN QAR RON RSD RUB SAR SEK SGD THB TRY TWD UAH USD UYU VND ZAR".split()
)

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(max_length=64)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Listing(_Record):
    """What a seller offers. Empty text and no images are allowed: a missing modality is a fact, not an error."""

    listing_id: Identifier
    seller_id: Identifier | None = None
    title: Annotated[str, Field(max_length=MAX_TITLE_CHARS)] = ""
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)] = ""
    price: float | None = None
    currency: str | None = None
    category: Word | None = None
    region: Word | None = None
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = None
    device_fingerprint: Word | None = None
    address_fingerprint: Word | None = None

    # Before the type's own check, which would refuse a surrogate without saying what to do.
    @field_validator("title", "description", mode="before")
    @classmethod
    def _is_unicode(cls, value: object) -> object:
        try:
            if isinstance(value, str):
                value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("is not valid Unicode (a lone surrogate); send UTF-8") from error
        return value

    @field_validator("title", "description")
    @classmethod
    def _has_no_nul(cls, value: str) -> str:
        if "\x00" in value:
            raise ValueError("holds a NUL character; remove it")
        return value

    # Before the type's own check, which would read true as 1 and "1e3" as 1000.
    @field_validator("price", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        if isinstance(value, bool | str | bytes):
            said = "true or false" if isinstance(value, bool) else "text"
            raise ValueError(f"must be a number, not {said}; leave it out where there is none")
        return value

    @field_validator("price")
    @classmethod
    def _is_a_price(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and 0 <= value <= MAX_PRICE):
            raise ValueError(f"must be a finite number from 0 to {MAX_PRICE:.0f}")
        return value

    @field_validator("currency")
    @classmethod
    def _is_a_currency(cls, value: str | None) -> str | None:
        if value is not None and value not in CURRENCIES:
            raise ValueError(
                f"{value[:8]!r} is not a currency that is traded here; send an ISO 4217 code such as EUR"
            )
        return value


class Submission(_Record):
    """One immutable upload attempt of a listing; its images are named by the SHA-256 of their bytes."""

    submission_id: Identifier
    listing: Listing
    image_digests: Annotated[tuple[Digest, ...], Field(max_length=MAX_IMAGES)] = ()
    submitted_at: AwareDatetime
    """Event time, set by the gateway; never taken from the client."""

    inclusion_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Chance that this submission was kept when its stream was thinned; 1 where nothing was thinned."""

    attributes: dict[str, str] = Field(default_factory=dict)
    """What a data set says of the row for slicing and splitting (`split`, `evasion`, ...); never a model input."""


class TruthSource(StrEnum):
    """Who established a ground truth."""

    REVIEW = "review"
    APPEAL = "appeal"
    AUDIT = "audit"
    REPORT = "report"
    IMPORT = "import"


class GroundTruth(_Record):
    """What was established about one submission under one policy. Unreviewed is unknown, never negative."""

    submission_id: Identifier
    policy: Identifier
    violates: bool
    source: TruthSource
    reviewed_at: AwareDatetime
    known_at: AwareDatetime
    """When it could first be used; later than `reviewed_at` where it travels."""

    propensity: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Chance that this submission was chosen for review, given that it was kept."""

    adjudicated: bool = False
    """Confirmed by a second person or a finished appeal."""


class Report(_Record):
    """A user's complaint about a submission; a reason to look, not a truth."""

    report_id: Identifier
    submission_id: Identifier
    reported_at: AwareDatetime


class Appeal(_Record):
    """A seller's objection to a decision; `overturned` is None while it is open."""

    appeal_id: Identifier
    submission_id: Identifier
    opened_at: AwareDatetime
    resolved_at: AwareDatetime | None = None
    overturned: bool | None = None


class ReversalReason(StrEnum):
    """Why an enforcement was undone."""

    APPEAL = "appeal"
    POLICY_ERROR = "policy_error"
    FALSE_POSITIVE = "false_positive"


class Reversal(_Record):
    """An enforcement on one submission was undone whole: as if it had never been.

    It says that the submission did not violate, as surely as a finished appeal. It outranks every truth that was
    established until then, an adjudicated one too; what is established later holds again.
    """

    reversal_id: Identifier
    submission_id: Identifier
    policy: Identifier | None = None
    """None: under every policy."""

    reason: ReversalReason
    reversed_at: AwareDatetime
    known_at: AwareDatetime
    """When it could first be used; later than `reversed_at` where it travels."""

    reversed_by: Word | None = None
    """Role of who undid it."""

    def outranks(self, truth: GroundTruth) -> bool:
        """Return whether `truth`, about the same submission and policy, holds no more."""
        return truth.reviewed_at <= self.reversed_at


def check_listing(fields: dict[str, Any]) -> Listing:
    """Return the listing described by `fields`.

    Raises:
        InvalidListing: naming the first field that breaks a limit and what to do.
    """
    try:
        return Listing.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part)[:64] for part in first["loc"]) or "listing"
        raise InvalidListing(field, first["msg"].removeprefix("Value error, ")) from error


def is_mature(truth: GroundTruth, cut_off: datetime) -> bool:
    """Return whether `truth` had arrived by `cut_off`; what arrived later may not train."""
    return truth.known_at <= cut_off
