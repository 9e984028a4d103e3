"""Every setting of a process, typed and documented in one place; read once through `settings()`."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from moderation.engines.engine import REFERENCE, EngineName
from moderation.errors import SettingsError

_PREFIX = "TIDEGATE__"


class Settings(BaseSettings):
    """Settings of one process; the environment variable of `x` is `TIDEGATE__X`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    home: Path = Path("build/home")
    """Folder of everything that a laptop keeps: ledger, content store, caches, registry, pipeline runs."""

    spill_folder: Path | None = None
    """Where a gateway keeps what the ledger cannot take; unset means below `home`. Name a folder on another disk."""

    policy_file: Path = Path("policies/marketplace.yaml")
    """The policies that a gateway and a pipeline apply."""

    pattern_file: Path | None = None
    """Analysts' patterns; unset means `patterns.yaml` beside the policy file, or none where there is no such file."""

    release_file: Path = Path("policies/release.yaml")
    """The release contract that gates judge by."""

    release_profile: Annotated[str, Field(min_length=1)] = "standard"
    """Weakest profile of the contract whose pass counts in this home; a pass under `standard` always does."""

    component_image: str = "tidegate-train-python:dev"
    """Image of every pipeline step on a cluster; the local runner ignores it."""

    num_threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Threads of one inference session; 1 when the other cores are busy."""

    tracking_url: str | None = None
    """MLflow tracking and registry server; unset means SQLite and a folder below `home`."""

    engine: EngineName = REFERENCE
    """What runs the towers of a predictor; any but the reference needs a passing comparison with it."""

    triton_url: str | None = None
    """Triton server of the engine `triton`, `grpc://host:port`."""

    triton_timeout_ms: Annotated[int, Field(ge=10, le=60_000)] = 5_000
    """How long one run of a tower by a Triton server may take."""

    study_url: str | None = None
    """Optuna storage; unset means SQLite below `home`."""

    feature_online_url: SecretStr | None = None
    """Online feature store, `redis://:password@host:port/db`; unset means SQLite below `home`."""

    otlp_endpoint: str | None = None
    """Where spans go by OTLP/HTTP, such as `http://collector:4318/v1/traces`; unset means that none are recorded."""

    otlp_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of traces that are recorded, of those that begin here; a caller's sampled flag goes before it."""

    explainer_url: str | None = None
    """Explainer that the gateway asks for reviewers, `http://host:port`; unset means that no score is explained."""

    predictor_workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Batches that the predictor runs at once, each on `num_threads`; 0 for as many as fill the visible cores."""

    predictor_preparers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that decode images and cut text into tokens; 0 for as many as there are cores."""

    predictor_pin_threads: bool = False
    """Whether the predictor's threads stay on their cores; only where no other process runs on these."""

    gateway_quota_per_s: Annotated[float, Field(gt=0)] = 500.0
    """Uploads a second that one caller may send for ever; an idle one may send two seconds' worth at once."""

    gateway_tokens: SecretStr = SecretStr("")
    """Callers as `name:role:token`, comma-separated; roles are submitter, reviewer, admin. Empty admits nobody."""

    @property
    def patterns(self) -> Path | None:
        """The pattern file in force."""
        beside = self.policy_file.with_name("patterns.yaml")
        return self.pattern_file or (beside if beside.exists() else None)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsError: if a variable with our prefix names no setting or holds a bad value.
    """
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if name.upper().startswith(_PREFIX) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(
            f"no such setting: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{_PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()
        )
        raise SettingsError(wrong) from error
