"""The section `serving` of the release contract: what the upload gate does, and when it stops doing it by itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seconds = Annotated[float, Field(gt=0, le=3_600, strict=True)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BreakerRules(_Frozen):
    """When a dependency of the gateway is left alone, and for how long."""

    calls: Count
    """Newest calls that are looked at; fewer say nothing."""

    share: Share
    """Of them that failed, from which the circuit opens."""

    open_s: Seconds
    """Seconds until one call is tried again."""


class Breakers(_Frozen):
    """One set of rules for each kind of dependency."""

    predictor: BreakerRules
    features: BreakerRules


class BankRules(_Frozen):
    """What a known image leads to under the policy of its bank."""

    tier: Literal["tag", "review", "block", "suspend"]
    """Of a known-bad image; the model is not asked."""

    contested: Literal["tag", "review"]
    """At least, where a known-good image is about as near; the model is asked."""


class DuplicateRules(_Frozen):
    """When a seller's same upload gets the answer of the one before."""

    window_s: Seconds
    """Seconds for which an answer holds."""

    max_repeats: Annotated[int, Field(ge=0, strict=True)]
    """Uploads that one answer is given to again; then the model is asked with the behaviour of that time. 0: none."""

    max_answers: Count
    """Answers that a gateway keeps in mind; the oldest go first."""


class BehaviourRules(_Frozen):
    """What the behaviour prefilter must show before it lets an upload go without asking the towers."""

    recall: Share
    """Of violations that go on, per policy and of evasive ones: shown by a lower bound."""

    confidence: Share
    """One-sided, of each bound."""

    min_positives: Count
    """Violations per policy, and evasive ones; with fewer the prefilter stays closed."""

    new_seller_days: Annotated[float, Field(ge=0, le=365, strict=True)]
    """Uploads of sellers that are younger always go on: nothing is known of them."""

    random_share: Share
    """Of what it would let go that goes on all the same, so that what it lets go stays measured."""

    salt: Annotated[str, Field(min_length=1, max_length=64)]
    """Of the draw by submission id; a new one draws other uploads."""

    retry_s: Seconds
    """Until a prefilter that a predictor could not give is asked for again."""


class Stage1Rules(_Frozen):
    """What stage 1 does before a model is asked."""

    banks: BankRules
    duplicates: DuplicateRules
    behaviour: BehaviourRules


class ServingRules(_Frozen):
    """What a gateway does when a part of it fails; how it then answers is said by the policy file's `on_failure`."""

    breakers: Breakers
    stage_1: Stage1Rules
