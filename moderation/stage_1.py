"""What stage 1, the cheap checks before the model, said of an upload: its signals, and what follows from them."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moderation.policy import PolicyFile, Tier

TierName = Literal["allow", "tag", "review", "block", "suspend"]

Evidence = dict[str, str | int | float]
"""One thing that was found: ids, places and distances, never the pattern or the image itself."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSignal(_Record):
    """One measured fact: what a stage says of an upload under one policy. Missing is never "nothing found"."""

    name: str
    """Of the stage: `patterns`, `banks`, ..."""

    policy: str | None = None
    """None: it speaks of all of them, or of none."""

    status: Literal["ok", "missing", "error"]
    reason: str = ""
    """Why the status is not ok, or what is special about the answer."""

    version: str | None = None
    """Of what was asked."""

    value: float | None = None
    """What was measured, where it is a number: a distance in bits, a probability."""

    cost: Annotated[float, Field(ge=0)] = 0.0
    """What the stage is expected to take, in milliseconds of one core; cheaper stages run first."""

    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    """What the stage took; all signals of one look share it."""

    tier: TierName = "allow"
    """The decision is this tier at least."""

    is_decisive: bool = False
    """Whether nobody need be asked any more. With tier `allow` it lets the upload go, unless another one raises it.

    No signal lets go where a stage failed: see `heeding_errors`.
    """

    found: tuple[Evidence, ...] = ()
    """For reviewers, never shown to a seller."""

    @model_validator(mode="after")
    def _says_only_what_it_measured(self) -> "StageSignal":
        is_raising = self.tier != "allow"
        if (is_raising or self.is_decisive) and self.status != "ok":
            raise ValueError(
                f"{self.name}: is {self.status}, so it cannot decide or raise anything"
            )
        if is_raising and self.policy is None:
            raise ValueError(f"{self.name}: names no policy, so nothing gives its reason")
        return self


class Stage1(_Record):
    """The signals of all stages, and the outcome that they give again at any time."""

    signals: tuple[StageSignal, ...]
    is_decisive: bool
    """Whether the decision was taken without the model."""

    tier: TierName
    """Of the decision where it is decisive, else its floor."""

    reason_codes: tuple[str, ...]
    latency_ms: Annotated[float, Field(ge=0)]

    @classmethod
    def of(
        cls, signals: Iterable[StageSignal], policies: PolicyFile, *, latency_ms: float
    ) -> "Stage1":
        """Return the record of signals under a policy file."""
        signals = tuple(signals)
        tier, codes = strongest(floors(signals), policies)
        return cls(
            signals=signals,
            is_decisive=is_decisive(signals),
            tier=tier.label,
            reason_codes=codes,
            latency_ms=latency_ms,
        )

    def version_of(self, name: str) -> str | None:
        """Return the version that a stage asked, None where it asked none."""
        return next((one.version for one in self.signals if one.name == name and one.version), None)

    def errors(self) -> tuple[str, ...]:
        """Return what failed, each once, as `stage: why`."""
        said = (f"{one.name}: {one.reason}" for one in self.signals if one.status == "error")
        return tuple(dict.fromkeys(said))


def floors(signals: Iterable[StageSignal]) -> dict[str, Tier]:
    """Return the strongest tier that signals ask for, by policy."""
    found: dict[str, Tier] = {}
    for signal in signals:
        if signal.policy is not None and signal.tier != "allow":
            asked = Tier[signal.tier.upper()]
            found[signal.policy] = max(asked, found.get(signal.policy, asked))
    return found


def is_decisive(signals: Iterable[StageSignal]) -> bool:
    """Return whether signals decide: one that raises a tier does so alone, one that lets go only if none raises."""
    signals = tuple(signals)
    decisive = [signal for signal in signals if signal.is_decisive]
    if any(signal.tier != "allow" for signal in decisive):
        return True
    return bool(decisive) and not floors(signals)


def heeding_errors(signals: Iterable[StageSignal]) -> tuple[StageSignal, ...]:
    """Return signals of which none lets go where any stage failed: what that one would have found is not known.

    The change is in the signals, so that a record of any age comes to its decision again by `is_decisive` alone.
    """
    signals = tuple(signals)
    failed = sorted({signal.name for signal in signals if signal.status == "error"})
    if not failed:
        return signals
    kept = {"is_decisive": False, "reason": f"lets nothing go: {', '.join(failed)} failed"}
    return tuple(
        signal.model_copy(update=kept) if signal.is_decisive and signal.tier == "allow" else signal
        for signal in signals
    )


def strongest(reached: Mapping[str, Tier], policies: PolicyFile) -> tuple[Tier, tuple[str, ...]]:
    """Return the strongest tier, and the reason codes of every policy that reached at least `tag`, strongest first.

    Args:
        reached: tier by policy; policies that are not in the file have no reason code and do not count.
        policies: gives each policy its reason code; ties come in the file's order.
    """
    known = [(reached[one.id], one.reason_code) for one in policies.policies if one.id in reached]
    raised = sorted((item for item in known if item[0] > Tier.ALLOW), key=lambda item: -item[0])
    return max((tier for tier, _ in known), default=Tier.ALLOW), tuple(code for _, code in raised)
