"""What an engine is, which ones there are, and what a statement about one of them is bound to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, get_args

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from moderation.errors import SettingsError

EngineName = Literal[
    "onnxruntime",
    "onnxruntime-int8",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
    "torch-cuda",
    "triton",
]
ENGINES: Final[tuple[EngineName, ...]] = get_args(EngineName)

REFERENCE: Final[EngineName] = "onnxruntime"
"""The engine that training embeds with: fp32, and what every other engine is compared with."""

QUANTISED: Final[frozenset[EngineName]] = frozenset({"onnxruntime-int8", "openvino-int8"})
"""Engines that run graphs derived from the bundle's own."""

Array = npt.NDArray[Any]


class Engine(Protocol):
    """One loaded graph; safe to call from several threads."""

    @property
    def name(self) -> EngineName:
        """Which engine this is."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs by name.

        Args:
            inputs: name -> array, the first axis the batch, any number of items of it.

        Raises:
            TidegateError: if the engine cannot answer; a `TemporaryError` may work later.
        """
        ...


EngineOpener = Callable[[Path], Engine]
"""Folder of a tower, as a bundle has it -> the engine that runs its graph."""


class EngineFacts(BaseModel):
    """What a comparison of an engine holds for: this engine, of this version, on such a machine, with these graphs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: EngineName
    library: str
    """Package and version that computes."""

    machine: str
    """Kind of processor: what chooses the kernels, and so the roundings."""

    graphs: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of the derived graphs; None where the engine runs the bundle's own."""


def engine_named(name: str) -> EngineName:
    """Return `name`, checked.

    Raises:
        SettingsError: naming the engines that there are.
    """
    for known in ENGINES:
        if known == name:
            return known
    raise SettingsError(f"no such engine: {name!r}; known are {', '.join(ENGINES)}")
