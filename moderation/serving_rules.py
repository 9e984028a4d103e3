"""The section `serving` of the release contract: what the upload gate does, and when it stops doing it by itself."""

from typing import Annotated

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


class ServingRules(_Frozen):
    """What a gateway does when a part of it fails; how it then answers is said by the policy file's `on_failure`."""

    breakers: Breakers
