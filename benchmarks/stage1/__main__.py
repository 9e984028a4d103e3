"""Stage 1: exact look-ups beside faiss, and what a listing costs a core before any model is asked."""

import argparse
import io
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.harness import Bench, Target
from benchmarks.stage1.lookups import compare_lookups
from benchmarks.stage1.traffic import add_share
from marketplace.config import WorldConfig
from marketplace.world import World
from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import SystemClock
from moderation.image import decode_view
from moderation.pattern_book import PatternBook
from moderation.policy import PolicyFile, load_policies
from moderation.prefilter import Incoming, Prefilter
from moderation.release import load_release
from moderation.settings import settings
from moderation.stages import BankStage, PatternStage
from tests.bank_world import entries_file, entry, hashes

GOAL_MS: Final = 10.0
_PHOTO_SIDES: Final = (1024, 768)


@dataclass(frozen=True)
class _Sizes:
    hashes: tuple[int, ...]
    look_ups: int
    listings: int
    banked: int
    traffic: float
    """Of the default world's, a day."""

    days: int


FULL: Final = _Sizes((1_000_000, 10_000_000), 2_000, 1_000, 100_000, 0.3, 40)
SMOKE: Final = _Sizes((50_000,), 100, 40, 2_000, 0.05, 6)


def main() -> None:
    """Look up, run the stages, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=stage1")
    parser.add_argument("--smoke", action="store_true", help="small banks, few listings")
    asked = parser.parse_args()
    sizes = SMOKE if asked.smoke else FULL
    bench = Bench("stage1-smoke" if asked.smoke else "stage1")
    compare_lookups(bench, sizes.hashes, sizes.look_ups)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-stage1-"))
    try:
        _time_stages(bench, folder, sizes)
        add_share(bench, folder / "world", factor=sizes.traffic, days=sizes.days)
    finally:
        shutil.rmtree(folder)
    bench.finish()


def _time_stages(bench: Bench, folder: Path, sizes: _Sizes) -> None:
    """Time patterns and banks on simulated listings, one after the other on one thread."""
    timer = SystemClock()
    prefilter, policies = _prefilter(folder, sizes.banked)
    listings = _listings(sizes.listings)
    photo = _photo()
    kinds: dict[str, list[tuple[bytes, ...]]] = {
        "text": [()] * len(listings),
        "text and its images": [images for _, _, images in listings],
        "text and a photo of a camera": [(photo,)] * len(listings),
    }
    for kind, images_of in kinds.items():
        times = []
        for (title, description, _), images in zip(listings, images_of, strict=True):
            begin = timer.monotonic()
            views = tuple(decode_view(data) for data in images)
            prefilter.look(Incoming("u", title, description, views)).concluded(policies)
            times.append((timer.monotonic() - begin) * 1e3)
        _add(bench, kind, times)


def _add(bench: Bench, kind: str, times: list[float]) -> None:
    p50, p99 = statistics.median(times), float(np.quantile(times, 0.99))
    rate = 1e3 * len(times) / sum(times)
    bench.rows.append(
        {
            "stages": kind,
            "listings": len(times),
            "listings/s a core": rate,
            "ms p50": p50,
            "ms p99": p99,
        }
    )
    bench.targets.append(
        Target(f"stage 1, {kind}: p99 in ms", f"<= {GOAL_MS:g}", p99, p99 <= GOAL_MS)
    )


def _prefilter(folder: Path, num_banked: int) -> tuple[Prefilter, PolicyFile]:
    config, clock = settings(), SystemClock()
    policies = load_policies(config.policy_file)
    rows = [
        entry(f"e{number}", hash_4, policy=policies.ids[0])
        for number, hash_4 in enumerate(hashes(num_banked))
    ]
    versions = BankVersions(folder / "banks", clock)
    version = versions.build(entries_file(folder / "entries.jsonl", rows), policies.ids)
    versions.activate(version)
    banks = Banks(versions, clock)
    banks.refresh()
    book = PatternBook(Path("policies/patterns.yaml"), policies.ids, clock)
    book.refresh()
    rules = load_release(config.release_file).serving.stage_1
    return Prefilter(
        [PatternStage(book), BankStage(banks, rules.banks, policies.ids)], clock
    ), policies


def _listings(num: int) -> list[tuple[str, str, tuple[bytes, ...]]]:
    world = World(WorldConfig.default().scaled(0.2))
    found: list[tuple[str, str, tuple[bytes, ...]]] = []
    for today in world.dates:
        for submission, images in world.day(today):
            found.append((submission.listing.title, submission.listing.description, tuple(images)))
            if len(found) == num:
                return found
        list(world.react(today, []))
    return found


def _photo() -> bytes:
    """Return a photo as a camera makes it: noise that does not compress away, 1024 x 768."""
    rng = np.random.default_rng(5)
    width, height = _PHOTO_SIDES
    small = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize(_PHOTO_SIDES, Image.Resampling.BICUBIC).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


if __name__ == "__main__":
    main()
