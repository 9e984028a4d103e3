"""Seconds of every part of the gate stage for one candidate beside its champion, with warm and with cold embeddings.

A simulated world gives a golden set and recorded traffic; the daily pipeline trains the champion, then, from another
seed, the candidate. The stage is then run on its own: cold, with what embedding the candidate's own snapshot leaves in
the cache (no stage meets less: its candidate was trained just before), and warm, with all that the cold one left there.
"""

import argparse
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from benchmarks.gates.stage import PROFILE, prove_and_judge
from benchmarks.gates.traffic import record_traffic
from benchmarks.harness import Bench, Target, measure
from benchmarks.judged import home_of
from components import golden
from components.embed import step as embedding
from components.home import Home
from components.policies import cut_off_of
from marketplace.config import WorldConfig
from moderation.bundle import Bundle
from moderation.golden import latest_golden
from moderation.policy import load_policies
from moderation.release import load_release
from moderation.settings import Settings, settings
from pipelines.parameters import Choices
from tidegate.training import run
from tidegate.world import build_world

WARM_S: Final = 90.0
COLD_S: Final = 600.0
GOLDEN: Final = 5_000
REPLAYED: Final = 20_000
SEEDS: Final = (17, 18)


def main() -> None:
    """Build, train twice, prove and judge, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=gates")
    parser.add_argument("--smoke", action="store_true", help="a tiny world, tiny towers")
    parser.add_argument("--scale", type=float, default=1.0, help="traffic per day, 1 = default")
    asked = parser.parse_args()
    bench = Bench("gates-smoke" if asked.smoke else "gates")
    place = {"home": home_of(bench.name).resolve(), "release_profile": PROFILE}
    config = settings().model_copy(update=place)
    home, policies = Home(config.home), load_policies(config.policy_file)
    world = (
        WorldConfig.tiny().scaled(2) if asked.smoke else WorldConfig.default().scaled(asked.scale)
    )
    built = build_world(world, home, policies)
    _freeze_golden(home, config, built.logical_date)
    choices = [
        Choices(
            built.logical_date,
            profile="tiny" if asked.smoke else "small",
            seed=seed,
            num_trials=2 if asked.smoke else 6,
            min_positives=1 if asked.smoke else 30,
            release_profile=PROFILE,
        )
        for seed in SEEDS
    ]
    champion = _trained(choices[0], config)
    end = datetime.fromisoformat(f"{built.logical_date}T00:00:00+00:00")
    recorded = record_traffic(home, champion[0], policies, end - timedelta(hours=1), most=REPLAYED)
    candidate = _trained(choices[1], config)
    # The cache so far holds attacks too: the pipelines above proved their candidates.
    aside = home.embeddings.with_suffix(".aside")
    _move_cache(home.embeddings, aside)
    try:
        _embed_snapshot_of(candidate, choices[1], home)
        for state in ("cold", "warm"):
            _stage(bench, config, champion[0], candidate, state)
    finally:
        _move_cache(aside, home.embeddings)
    bench.notes.append(f"{recorded} decisions recorded, profile {PROFILE} of the contract")
    bench.finish()


def _move_cache(file: Path, to: Path) -> None:
    """Move a cache with SQLite's own files beside it: those of another cache would damage it."""
    for tail in ("", "-wal", "-shm"):
        own, place = (one.with_name(one.name + tail) for one in (file, to))
        place.unlink(missing_ok=True)
        if own.exists():
            own.rename(place)


def _freeze_golden(home: Home, config: Settings, day: str) -> None:
    if latest_golden(home.golden) is None:
        rules = load_release(config.release_file).golden
        rules = rules.model_copy(update={"share_of_groups": 0.3, "max_items": GOLDEN})
        golden.build(home, cut_off_of(day), load_policies(config.policy_file).ids, rules)


def _trained(choices: Choices, config: Settings) -> tuple[Bundle, Path]:
    """Return the bundle of a pipeline run, and the snapshot that it was trained on."""
    done = run(choices, config)
    bundle = Bundle.open(Home(config.home).bundles / done.outputs["digest"])
    return bundle, Path(done.outputs["table"])


def _embed_snapshot_of(candidate: tuple[Bundle, Path], choices: Choices, home: Home) -> None:
    """Put into the cache what the training of this candidate put there."""
    rows, towers = home.folder / "bench-rows", home.folder / "bench-towers"
    for left in (rows, towers):
        shutil.rmtree(left, ignore_errors=True)
    profile, seed = choices.profile, choices.seed
    embedding.run(
        str(candidate[1]), str(home.folder), profile, seed, out=str(rows), towers=str(towers)
    )


def _stage(
    bench: Bench, config: Settings, champion: Bundle, candidate: tuple[Bundle, Path], state: str
) -> None:
    spent = measure(prove_and_judge, config, champion.folder, *_paths(candidate), SEEDS[-1])
    counts: dict[str, Any] = spent.result
    for part, seconds in sorted(counts.items()):
        if part.endswith("_seconds"):
            name = part.removesuffix("_seconds")
            row = {"embeddings": state, "part": name, "seconds": round(seconds, 2)}
            bench.rows.append(row | {"rows": int(counts.get(f"{name}_rows", 0)) or "-"})
    bench.rows.append(
        {
            "embeddings": state,
            "part": "whole stage",
            "seconds": round(spent.seconds, 2),
            "rows": "-",
        }
    )
    goal = WARM_S if state == "warm" else COLD_S
    sizes = (
        f"{counts.get('golden_rows', 0):.0f} golden, {counts.get('replay_rows', 0):.0f} replayed"
    )
    bench.targets.append(
        Target(
            f"whole stage, {state} ({sizes})",
            f"<= {goal:g} s",
            spent.seconds,
            spent.seconds <= goal,
        )
    )
    bench.notes.append(
        f"{state}: peak {spent.peak_mb:.0f} MB, {counts['embeddings_computed']:.0f} embeddings computed"
    )


def _paths(candidate: tuple[Bundle, Path]) -> tuple[Path, Path]:
    return candidate[0].folder, candidate[1]


if __name__ == "__main__":
    main()
