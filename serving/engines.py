"""The one place where engines are made: by name, and only those that were shown to agree answer requests."""

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from moderation.attestation import require_parity
from moderation.bundle import Bundle
from moderation.clock import Clock
from moderation.derived_graphs import derived_digest, derived_folder
from moderation.engines import machine, onnx_runtime, open_vino
from moderation.engines.engine import (
    QUANTISED,
    REFERENCE,
    Engine,
    EngineFacts,
    EngineName,
    EngineOpener,
)
from moderation.engines.onnx_runtime import OnnxRuntimeEngine
from moderation.engines.open_vino import OpenVinoEngine
from moderation.errors import SettingsError
from moderation.profiles import profile_named
from moderation.reading import TEXT_FOLDER
from moderation.release import load_release
from moderation.scoring import Scorer
from moderation.settings import Settings
from serving.triton import TritonEngine

_TORCH: Final = "moderation.torch_engine"
"""Loaded by name: with this engine alone a serving process pays for torch, and no other path leads to it."""


@dataclass(frozen=True)
class EngineChoice:
    """Which engine, and what it needs to run."""

    name: EngineName = REFERENCE
    num_threads: int = 1
    """Of one run of a graph, in engines that take whole batches; the reference runs a batch's items side by side."""

    triton_url: str | None = None
    timeout_s: float = 5.0
    """Of one call to a Triton server."""

    device: str = "cuda"
    """Of `torch-cuda`."""

    @classmethod
    def of(cls, config: Settings, num_threads: int) -> "EngineChoice":
        """Return what the settings say, for runs on so many threads."""
        return cls(
            config.engine,
            num_threads,
            triton_url=config.triton_url,
            timeout_s=config.triton_timeout_ms / 1_000,
        )


def trusted_scorer(
    bundle: Bundle,
    choice: EngineChoice,
    release_file: Path,
    *,
    num_threads: int = 1,
    clock: Clock | None = None,
) -> Scorer:
    """Return the scorer of a bundle with an engine that may answer requests.

    Args:
        bundle: verified.
        choice: the engine; any but the reference needs a passing comparison under the contract in force.
        release_file: the contract; read for another engine than the reference alone.
        num_threads: items that are embedded side by side.
        clock: times the stages.

    Raises:
        GateRejected: if the engine was not shown to agree with the reference one, here, as it is.
        PermanentError: if it cannot run here; the message says what to do.
    """
    if choice.name != REFERENCE:
        require_parity(bundle, facts_of(bundle, choice), load_release(release_file).digest)
    return scorer_with(bundle, choice, num_threads=num_threads, clock=clock)


def scorer_with(
    bundle: Bundle, choice: EngineChoice, *, num_threads: int = 1, clock: Clock | None = None
) -> Scorer:
    """Return the scorer of a bundle with any engine: to compare it, not to answer requests.

    Raises:
        PermanentError: if the engine cannot run here; the message says what to do.
    """
    return Scorer(bundle, num_threads, clock, open_engine=opener(bundle, choice))


def opener(bundle: Bundle, choice: EngineChoice) -> EngineOpener:
    """Return what opens the engine of each tower of a bundle.

    Raises:
        SettingsError: if a setting that the engine needs is missing.
        BundleRejected: if the graphs that it runs were not derived.
        PermanentError: if it cannot run here.
    """
    if choice.name in QUANTISED:
        derived_digest(bundle, choice.name)
    match choice.name:
        case "torch-cuda":
            profile = profile_named(bundle.manifest.profile)
            return partial(_torch().open_tower, profile=profile, device=choice.device)
        case "triton":
            return partial(TritonEngine, _triton_url(choice), timeout_s=choice.timeout_s)
        case _:
            return partial(_on_cpu, bundle=bundle, choice=choice)


def facts_of(bundle: Bundle, choice: EngineChoice) -> EngineFacts:
    """Return what a comparison of the engine holds for, as it would run here.

    Raises:
        PermanentError: if it cannot run here; the message says what to do.
    """
    graphs = derived_digest(bundle, choice.name) if choice.name in QUANTISED else None
    library, kind = onnx_runtime.library(), machine.processor_kind()
    if choice.name == "torch-cuda":
        plugin = _torch()
        plugin.require_device(choice.device)
        library, kind = plugin.library(), plugin.machine(choice.device)
    elif choice.name == "triton":
        engine = TritonEngine(
            _triton_url(choice), bundle.folder / TEXT_FOLDER, timeout_s=choice.timeout_s
        )
        library, kind = engine.library, engine.machine
    elif choice.name.startswith("openvino"):
        library = open_vino.library()
    return EngineFacts(name=choice.name, library=library, machine=kind, graphs=graphs)


def _on_cpu(folder: Path, *, bundle: Bundle, choice: EngineChoice) -> Engine:
    if choice.name == REFERENCE:
        return onnx_runtime.open_reference(folder)
    path = folder / "model.onnx"
    if choice.name in QUANTISED:
        path = derived_folder(bundle, choice.name) / f"{folder.name}.onnx"
    if choice.name.startswith("openvino"):
        return OpenVinoEngine(path, choice.name, choice.num_threads)
    return OnnxRuntimeEngine(path, choice.name, choice.num_threads)


def _torch() -> Any:
    try:
        return importlib.import_module(_TORCH)
    except ImportError as error:
        raise SettingsError(
            f"engine torch-cuda needs torch, which cannot be imported ({error}); install the extra `train` in "
            "the predictor's image, or use another engine"
        ) from error


def _triton_url(choice: EngineChoice) -> str:
    if choice.triton_url is None:
        raise SettingsError(
            "engine triton needs TIDEGATE__TRITON_URL, the grpc://host:port of a Triton server"
        )
    return choice.triton_url
