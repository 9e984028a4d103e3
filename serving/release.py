"""What a predictor says of the bundle it serves: read by the gateway, once per release."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Release(BaseModel):
    """The identity of a served bundle and what its answers mean; travels in the model's metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    """Digest of the bundle; every answer repeats it as its model version."""

    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    """Order of the P axis."""

    members: Annotated[tuple[str, ...], Field(min_length=1)]
    """Order of the M axis."""

    features: tuple[str, ...]
    """Order of the F axis."""

    thresholds: dict[str, dict[str, float]]
    """Open tiers by policy, as calibration solved them."""

    shares: dict[str, float] = Field(default_factory=dict)
    """Policy -> share of traffic that calibration expected at block or stronger."""

    versions: dict[str, str] = Field(default_factory=dict)
    """Version of each component of the bundle."""

    prefilter: str | None = None
    """SHA-256 of the behaviour prefilter that the same server hands out; None where the bundle has none."""

    engine: str = ""
    """What runs the towers: `onnxruntime` is the reference that every other one was compared with."""

    def to_bytes(self) -> bytes:
        """Return the release as canonical JSON."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":")).encode()


def parse_release(data: bytes) -> Release:
    """Return the release that `data` describes.

    Raises:
        ValueError: if it is not one.
    """
    try:
        return Release.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"not a release: {error}") from error
