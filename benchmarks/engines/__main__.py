"""Every engine on the same towers, interleaved: items a second with one thread and two, and how far from fp32.

An item is one image and one text as long as the profile allows. `--device cuda` measures torch on a GPU against its
roofline instead; it needs torch, timm and transformers, and no network.
"""

import argparse
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.engines.towers import FOLDER, inputs_of, profile_to_measure
from benchmarks.harness import Bench, Target
from moderation.clock import SystemClock
from moderation.engines.engine import QUANTISED, REFERENCE, Engine, EngineName
from moderation.profiles import Profile
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER

_TOWERS: Final = (IMAGE_FOLDER, TEXT_FOLDER)
_ON_CPU: Final[tuple[EngineName, ...]] = (
    REFERENCE,
    "onnxruntime-int8",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
)


@dataclass(frozen=True)
class _Sizes:
    profiles: tuple[str, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    rounds: int


FULL: Final = _Sizes(("tiny", "small", "clip"), (1, 8, 32), (1, 2), rounds=12)
LARGE: Final = {"clip": _Sizes(("clip",), (1, 8), (1, 2), rounds=4)}
SMOKE: Final = _Sizes(("tiny",), (1, 8), (1, 2), rounds=3)


@dataclass
class _Runner:
    """One engine with both towers of one profile."""

    name: EngineName
    threads: int
    engines: dict[str, Engine]
    seconds: dict[int, list[float]] = field(default_factory=dict)
    cosine: float = 1.0


def main() -> None:
    """Open, interleave, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=engines")
    parser.add_argument("--smoke", action="store_true", help="tiny towers, three rounds")
    parser.add_argument("--profile", action="append", help="tiny, small or clip; all if absent")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    if asked.device == "cuda":
        from benchmarks.engines.gpu import measure_gpu

        measure_gpu(tuple(asked.profile or ("clip",)), is_smoke=asked.smoke)
        return
    bench = Bench("engines-smoke" if asked.smoke else "engines")
    sizes = SMOKE if asked.smoke else FULL
    for name in asked.profile or sizes.profiles:
        _measure(bench, profile_to_measure(name), LARGE.get(name, sizes))
    bench.notes.append(
        "an item is one image and one text of the profile's longest; engines take turns in every round"
    )
    bench.finish()


def _measure(bench: Bench, profile: Profile, sizes: _Sizes) -> None:
    folder = _towers(profile)
    runners = [
        _Runner(name, threads, {tower: _open(folder, tower, name, threads) for tower in _TOWERS})
        for threads in sizes.threads
        for name in _ON_CPU
    ]
    clock = SystemClock()
    for batch in sizes.batches:
        feeds = {tower: inputs_of(profile, tower, batch) for tower in _TOWERS}
        expected = {tower: _embedding(runners[0], tower, feeds[tower]) for tower in _TOWERS}
        for turn in range(sizes.rounds + 1):
            for runner in runners:
                begin = clock.monotonic()
                found = {tower: _embedding(runner, tower, feeds[tower]) for tower in _TOWERS}
                spent = clock.monotonic() - begin
                if turn:  # the first one sets up what is made lazily
                    runner.seconds.setdefault(batch, []).append(spent)
                near = [_cosine(found[tower], expected[tower]) for tower in _TOWERS]
                runner.cosine = min(runner.cosine, *near)
    bench.rows += [_row(profile, runner, batch) for batch in sizes.batches for runner in runners]
    _judge(bench, profile, runners, max(sizes.batches))


def _judge(bench: Bench, profile: Profile, runners: list[_Runner], batch: int) -> None:
    """Say which engine a predictor of this kind of machine should ask for, had it passed the parity gate."""
    best = max(runners, key=lambda one: batch / min(one.seconds[batch]))
    ratio = min(runners[0].seconds[batch]) / min(best.seconds[batch])
    bench.notes.append(
        f"{profile.name}, batches of {batch}: fastest is {best.name} with {best.threads} threads, "
        f"{ratio:.2f} x {REFERENCE} with one; cosine {best.cosine:.4f}"
    )
    exact = min(one.cosine for one in runners if one.name in (REFERENCE, "openvino-f32"))
    bench.targets.append(
        Target(f"{profile.name}: cosine of fp32 engines", ">= 0.99999", exact, exact >= 0.99999)
    )


def _row(profile: Profile, runner: _Runner, batch: int) -> dict[str, Any]:
    seconds = runner.seconds[batch]
    return {
        "profile": profile.name,
        "engine": runner.name,
        "threads": runner.threads,
        "batch": batch,
        "items/s": batch / min(seconds),
        "items/s p50": batch / statistics.median(seconds),
        "ms min": 1_000 * min(seconds),
        "ms p50": 1_000 * statistics.median(seconds),
        "cosine": runner.cosine,
    }


def _towers(profile: Profile) -> Path:
    from moderation.engines.quantise import quantise
    from moderation.export import export_towers

    folder = export_towers(profile, FOLDER).folder
    for name in QUANTISED:
        for tower in _TOWERS:
            target = folder / f"{name}.{tower}.onnx"
            if not target.exists():
                quantise(folder / tower / "model.onnx", target, name)
    return folder


def _open(folder: Path, tower: str, name: EngineName, threads: int) -> Engine:
    from moderation.engines.onnx_runtime import OnnxRuntimeEngine
    from moderation.engines.open_vino import OpenVinoEngine

    path = folder / tower / "model.onnx"
    if name in QUANTISED:
        path = folder / f"{name}.{tower}.onnx"
    if name.startswith("openvino"):
        return OpenVinoEngine(path, name, threads)
    return OnnxRuntimeEngine(path, name, threads)


def _embedding(runner: _Runner, tower: str, feed: Any) -> Any:
    return runner.engines[tower].run(feed)["embedding_BD"]


def _cosine(one_BD: Any, other_BD: Any) -> float:
    lengths_B = np.linalg.norm(one_BD, axis=1) * np.linalg.norm(other_BD, axis=1)
    return float(((one_BD * other_BD).sum(axis=1) / lengths_B).min())


if __name__ == "__main__":
    main()
