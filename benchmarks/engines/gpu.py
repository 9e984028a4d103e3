"""torch in bf16 on a GPU against its roofline: items a second times the floating-point operations of an item."""

import statistics
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engines.towers import inputs_of, profile_to_measure
from benchmarks.harness import Bench, Target
from moderation.clock import SystemClock
from moderation.profiles import Profile
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.torch_engine import TorchEngine, require_device
from moderation.towers import build_image_tower, build_text_tower

_DEVICE: Final = "cuda"
_PEAK_TFLOPS: Final = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16 of the SXM boards, by NVIDIA's data sheets."""

_GOAL: Final = 0.5
_SQUARE: Final = 8_192
_BATCHES: Final = (1, 8, 32, 128, 512, 1_024)


def measure_gpu(profiles: tuple[str, ...], *, is_smoke: bool) -> None:
    """Print items a second and the share of the roofline, for whole calls and for tensors that are there already.

    Raises:
        PermanentError: if there is no GPU.
    """
    require_device(_DEVICE)
    bench = Bench("engines-cuda-smoke" if is_smoke else "engines-cuda")
    gpu = torch.cuda.get_device_name()
    peak = next((value for name, value in _PEAK_TFLOPS.items() if name in gpu), None)
    reached = _matrix_tflops(5 if is_smoke else 30)
    bench.notes.append(
        f"{gpu}: data sheet {peak or 'unknown'} TFLOP/s in bf16, a product of {_SQUARE} squared reaches {reached:.0f}"
    )
    for name in profiles:
        _measure(bench, profile_to_measure(name), peak or reached, 3 if is_smoke else 20)
    bench.finish()


def _measure(bench: Bench, profile: Profile, peak_tflops: float, rounds: int) -> None:
    modules = {
        IMAGE_FOLDER: build_image_tower(profile.image_tower),
        TEXT_FOLDER: build_text_tower(profile.text_tower).tower,
    }
    gflop = sum(_gflop(module, inputs_of(profile, tower, 1)) for tower, module in modules.items())
    engines = {tower: TorchEngine(module, _DEVICE) for tower, module in modules.items()}
    compiled = {tower: torch.compile(module, dynamic=False) for tower, module in modules.items()}
    best = 0.0
    for batch in _BATCHES:
        feeds = {tower: inputs_of(profile, tower, batch) for tower in modules}
        there = {tower: [_there(array) for array in feed.values()] for tower, feed in feeds.items()}
        runs: dict[str, Callable[[], Any]] = {
            "whole call": lambda feeds=feeds: [e.run(feeds[t]) for t, e in engines.items()],  # type: ignore[misc]
            "resident": lambda there=there: [m(*there[t]) for t, m in modules.items()],  # type: ignore[misc]
            "resident, compiled": lambda there=there: [m(*there[t]) for t, m in compiled.items()],  # type: ignore[misc]
        }
        seconds = _interleaved(runs, rounds)
        for kind, spent in seconds.items():
            rate = batch / min(spent)
            share = rate * gflop / 1_000 / peak_tflops
            best = max(best, share)
            bench.rows.append(
                {
                    "profile": profile.name,
                    "what": kind,
                    "batch": batch,
                    "items/s": rate,
                    "items/s p50": batch / statistics.median(spent),
                    "GFLOP/item": gflop,
                    "of the roofline": share,
                }
            )
    bench.targets.append(
        Target(f"{profile.name}: share of the roofline", f">= {_GOAL}", best, best >= _GOAL)
    )


def _interleaved(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    clock, seconds = SystemClock(), {kind: list[float]() for kind in runs}
    for turn in range(rounds + 2):  # two to warm up: compilation, then the allocator
        for kind, run in runs.items():
            torch.cuda.synchronize()
            begin = clock.monotonic()
            with torch.inference_mode():
                run()
            torch.cuda.synchronize()
            if turn >= 2:
                seconds[kind].append(clock.monotonic() - begin)
    return seconds


def _there(array: Any) -> torch.Tensor:
    tensor = torch.from_numpy(array).to(_DEVICE)
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


def _gflop(module: torch.nn.Module, inputs: dict[str, Any]) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        module(*(torch.from_numpy(array) for array in inputs.values()))
    return counter.get_total_flops() / 1e9


def _matrix_tflops(rounds: int) -> float:
    """Return what one large bf16 product reaches: the roofline that software meets."""
    square = torch.randn(_SQUARE, _SQUARE, device=_DEVICE, dtype=torch.bfloat16)
    (seconds,) = _interleaved({"product": lambda: square @ square}, rounds).values()
    return 2 * _SQUARE**3 / min(seconds) / 1e12
