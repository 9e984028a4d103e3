"""The section `serving` of the release contract: what the upload gate does, and when it stops doing it by itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Milliseconds = Annotated[int, Field(ge=1, le=60_000, strict=True)]
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
    ledger: BreakerRules


class IntakeRules(_Frozen):
    """How much a gateway takes in at once; beyond it an upload is refused before it is read (HTTP 503)."""

    max_uploads: Count
    """Being decided: so few that the last of them is still decided by a model within its time."""

    max_bodies: Count
    """On their way to the gateway."""

    max_mib: Count
    """Of the bodies of both; one upload alone may always come."""

    caller_share: Share
    """Of `max_bodies` and of `max_mib` that bodies of one caller may take while they are on their way."""

    body_s: Seconds
    """Seconds within which a body must have come whole."""

    retry_s: Seconds
    """Seconds after which a refused caller should come back."""


class SpillRules(_Frozen):
    """What happens to events and blobs that the ledger or the content store cannot take."""

    max_bytes: Count
    """Of the files that a gateway may fill; then it refuses uploads."""

    retry_s: Seconds
    """Seconds between two tries to move them where they belong."""


class PredictionBreaker(_Frozen):
    """When what a release says of listings is not believed any more, and automatic enforcement stops.

    Each gateway looks at the listings that it judged itself.
    """

    window_s: Seconds
    """Listings that were judged earlier are looked at only where there are fewer than `least_listings` since."""

    most_s: Annotated[float, Field(gt=0, le=604_800, strict=True)]
    """Listings that were judged earlier are never looked at."""

    least_listings: Count
    """Of one release; fewer say nothing."""

    newest_listings: Count
    """Of these; where some are older than `window_s`, as large a share of so many has to be flagged too."""

    most_listings: Count
    """The newest of one release; more are not kept."""

    share: Share
    """Of a release's listings that it puts at block or stronger, from which enforcement stops."""

    share_of_policy: Share
    """The same under one policy."""

    times_expected: Annotated[float, Field(gt=1, strict=True)]
    """As many times the share that calibration expected of this bundle under one policy, too; where it is known."""

    least_flags: Count
    """At block or stronger, below which nothing is many times what was expected."""

    auto_close_s: Annotated[float, Field(gt=0, strict=True)] | None = None
    """Seconds of quiet traffic after which enforcement goes on by itself; None: an admin says so."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> "PredictionBreaker":
        if self.most_listings < self.least_listings:
            raise ValueError("most_listings: must be at least least_listings")
        if self.newest_listings > self.least_listings:
            raise ValueError("newest_listings: must be at most least_listings")
        if self.most_s < self.window_s:
            raise ValueError("most_s: must be at least window_s")
        return self


class EnforcementQuotas(_Frozen):
    """How many listings all gateways of a home together may block or suspend without a person in an hour."""

    per_hour: Count
    per_policy_per_hour: Count
    auto_close_s: Annotated[float, Field(gt=0, strict=True)] | None = None
    """Seconds within the quota after which enforcement goes on by itself; None: an admin says so."""


class ShadowRules(_Frozen):
    """What a shadow may cost; above it, requests to it are shed."""

    max_in_flight: Count
    max_mib_in_flight: Count
    """Of photos that wait for an answer."""

    timeout_s: Seconds
    shed_above: Annotated[int, Field(ge=0, strict=True)]
    """Uploads in flight, above which no shadow is asked."""

    max_kept: Count
    """Answers that wait for the ledger; above it, requests are shed."""


class Heartbeat(_Frozen):
    """How each gateway says that it lives."""

    every_s: Seconds
    stale_s: Seconds
    """After which a gateway that said nothing counts as gone."""

    @model_validator(mode="after")
    def _is_seen_in_time(self) -> "Heartbeat":
        if self.stale_s < 2 * self.every_s:
            raise ValueError(
                "stale_s: must be at least twice every_s, or a living gateway looks gone"
            )
        return self


class StageShares(_Frozen):
    """What the stages beside the predictor may take of an upload's time at most."""

    behaviour: Share
    """Waiting for behaviour features."""

    record: Share
    """Kept back from the predictor, so that its answer can still be recorded in time."""


class Budgets(_Frozen):
    """The time of one upload and its split; what the shares leave goes to the predictor."""

    total_ms: Annotated[int, Field(ge=10, le=60_000, strict=True)]
    """From when the body is there until the answer."""

    least_ms: Annotated[int, Field(ge=1, le=60_000, strict=True)]
    """The shortest that a caller may ask for."""

    fair_share: Share
    """Of its usual time that a dependency must have had before its being too slow is counted against it."""

    shares: StageShares
    ledger_ms: Milliseconds
    """For each read and each write of the ledger; then events go to the spill."""

    @model_validator(mode="after")
    def _leave_something(self) -> "Budgets":
        if self.least_ms > self.total_ms:
            raise ValueError("least_ms is more than total_ms; lower it")
        if self.shares.behaviour + self.shares.record >= 1:
            raise ValueError(
                "the shares leave nothing for the predictor; let them sum to less than 1"
            )
        return self


Chance = Annotated[float, Field(ge=0, le=1, strict=True)]


class Audit(_Frozen):
    """Chance of a decision of each tier to be looked at by a person at random."""

    allow: Chance
    tag: Chance
    review: Chance
    block: Chance
    suspend: Chance

    def chance_of(self, tier: str) -> float:
        """Return the chance of a tier's decision."""
        chance: float = getattr(self, tier)
        return chance


class LineRules(_Frozen):
    """How much may wait at the predictor under one priority; beyond it a request is refused at once."""

    items: Count
    mib: Count
    """Size of the requests that wait, as they came."""


class Lines(_Frozen):
    """Who may wait at the predictor, first to last."""

    upload: LineRules
    rescan: LineRules
    backfill: LineRules


class PredictorRules(_Frozen):
    """How the predictor forms batches, and what it refuses."""

    max_batch: Annotated[int, Field(ge=1, le=1_024, strict=True)]
    """Listings that go through the models together."""

    wait_ms: Annotated[float, Field(ge=0, le=1_000, strict=True)]
    """Most that an engine waits for a batch to fill: while listings are yet to be prepared, or after one of several."""

    fair_every: Count
    """Listings that may go ahead of a lower priority before its oldest goes."""

    behind_ms: Annotated[float, Field(gt=0, le=10_000, strict=True)]
    """Most that rescans and backfill may take of one batch, where they are more than one listing: nothing ends a batch
    that runs, so an upload that comes waits for them."""

    stop_s: Annotated[float, Field(gt=0, le=600, strict=True)]
    """From the signal to stop: what was let in and has no answer by then is refused."""

    lines: Lines


class ParityRules(_Frozen):
    """What an engine must be shown to keep to before it answers in the place of the reference one."""

    min_rows: Count
    max_rows: Count
    """Of more, a sample is compared."""

    min_positives: Count
    """Violations under each policy."""

    confidence: Annotated[float, Field(gt=0.5, lt=1, strict=True)]
    """Of the bounds on flips and on lost precision, one-sided."""

    max_difference: Share
    """Of any probability."""

    quantile: Share
    quantile_difference: Share
    """Of the probabilities, at that quantile."""

    tier_flips: Share
    """Share of listings that come to another tier, its upper bound."""

    precision_loss: Share
    """Average precision lost under any policy, the upper bound of the paired difference."""


class TritonRules(_Frozen):
    """How a Triton server batches the towers, as its exported model repository says."""

    max_batch: Count
    preferred_batches: Annotated[tuple[Count, ...], Field(min_length=1)]
    max_queue_delay_us: Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
    """Microseconds that a request waits for others."""

    instances: Count
    """Copies of a tower on each device."""

    @model_validator(mode="after")
    def _batches_fit(self) -> "TritonRules":
        if max(self.preferred_batches) > self.max_batch:
            raise ValueError("preferred_batches: none may be larger than max_batch")
        return self


class EngineRules(_Frozen):
    """What runs the towers, beside the reference."""

    parity: ParityRules
    triton: TritonRules


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


class AlertRules(_Frozen):
    """When a person is told that gateways go on without something that they need."""

    window_s: Seconds
    """Over which events are counted."""

    after_s: Seconds
    """For which it must hold: longer than the window, so that one event that passes tells nobody."""

    without_model: Share
    """Of the uploads that a model was to judge, answered by the failure policy."""

    least_uploads: Count
    """That a model was to judge in the window; fewer say nothing."""

    spill_share: Share
    """Of `spill.max_bytes` that one gateway has spilled."""

    spill_wait_s: Seconds
    """For which something has been waiting in a spill."""

    @model_validator(mode="after")
    def _outlast_one_event(self) -> "AlertRules":
        if self.after_s <= self.window_s:
            raise ValueError("after_s: must be more than window_s, or one event alerts")
        return self


class ServingRules(_Frozen):
    """What a gateway does when a part of it fails; how it then answers is said by the policy file's `on_failure`.

    A part that is not there, or null, is switched off.
    """

    intake: IntakeRules
    breakers: Breakers
    predictor: PredictorRules
    budgets: Budgets
    spill: SpillRules
    stage_1: Stage1Rules
    engines: EngineRules | None = None
    """Without it the reference engine alone may answer."""

    explanation_timeout_s: Seconds
    """Until a reviewer's explanation is given up; no answer to an upload waits for one."""

    prediction_breaker: PredictionBreaker | None = None
    enforcement_quotas: EnforcementQuotas | None = None
    shadow: ShadowRules | None = None
    heartbeat: Heartbeat | None = None
    audit: Audit | None = None
    alerts: AlertRules | None = None
