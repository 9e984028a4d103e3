"""The steps of the training pipeline by name, and what a run tells about them; light to import."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

STEP_NAMES: Final = (
    "ingest",
    "skew",
    "validate",
    "snapshot",
    "embed",
    "tune",
    "train",
    "calibrate",
    "bundle",
    "evaluate",
    "resolve",
    "prove",
    "judge",
    "register",
)


@dataclass(frozen=True)
class StepEvent:
    """What happened to one step of a run."""

    step: str
    what: Literal["started", "progress", "finished", "cached", "failed"]
    seconds: float = 0.0
    done: int = 0
    total: int = 0
    note: str = ""


OnStep = Callable[[StepEvent], None]
