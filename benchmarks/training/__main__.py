"""Stages x seconds x peak memory of a training, a tuning trial against it, and a plain PyTorch loop as the limit."""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Bench, Target, measure
from benchmarks.training import stages

SIZES = ((2_000, "small"), (2_000, "tiny"), (20_000, "tiny"), (100_000, "tiny"))
TRIALS = 6
REPEATS = 3
# A trial may cost this part of a training without any cached embedding.
MOST_OF_A_TRAINING = 1 / 20
LEAST_OF_A_PLAIN_LOOP = 0.8
THREADS = 2


def run(bench: Bench, num_rows: int, profile: str) -> None:
    """Measure one size and profile."""
    folder = tempfile.mkdtemp(prefix="training-")
    try:
        measure(stages.make, num_rows, folder)
        towers = measure(stages.export, profile, f"{folder}/towers")
        where = (profile, towers.result["towers"], folder, THREADS)
        measured = {
            "export": towers,
            "embed": measure(stages.embed, *where),
            "embed again": measure(stages.embed, *where),
            "tune": measure(stages.tune, profile, folder, TRIALS),
            "train": measure(stages.train, profile, folder),
        }
        for stage, cost in measured.items():
            row: dict[str, Any] = {"listings": num_rows, "profile": profile, "stage": stage}
            row |= {
                "seconds": cost.seconds,
                "CPU s": cost.cpu_seconds,
                "peak MB": cost.peak_mb,
            }
            row["listings/s"] = num_rows / cost.seconds
            bench.rows.append(row)
        name = f"{num_rows} listings, {profile}"
        trial_s = measured["tune"].result["trial_s"]
        share = trial_s / (measured["embed"].seconds + measured["train"].seconds)
        if profile == "small":
            goal = f"<= {MOST_OF_A_TRAINING:g}"
            bench.targets.append(
                Target(f"{name}: trial / training", goal, share, share <= MOST_OF_A_TRAINING)
            )
        else:
            bench.notes.append(f"{name}: a trial took {trial_s:.2f} s, {share:.3f} of a training")
        speed = measure(stages.heads, profile, folder, REPEATS).result
        ratio = speed["ours"] / speed["plain"]
        bench.notes.append(
            f"{name}: heads at {speed['ours']:.0f} items/s, plain loop {speed['plain']:.0f}"
        )
        goal = f">= {LEAST_OF_A_PLAIN_LOOP}"
        bench.targets.append(
            Target(f"{name}: items/s of a plain loop", goal, ratio, ratio >= LEAST_OF_A_PLAIN_LOOP)
        )
    finally:
        shutil.rmtree(Path(folder), ignore_errors=True)


def main() -> None:
    """Measure every size, largest last."""
    parser = argparse.ArgumentParser(prog="make bench NAME=training")
    parser.add_argument("--smoke", action="store_true", help="one small size, tiny towers")
    parser.add_argument("--least", type=int, default=0, help="smallest number of listings")
    parser.add_argument("--most", type=int, default=SIZES[-1][0], help="largest number of listings")
    asked = parser.parse_args()
    bench = Bench("training-smoke" if asked.smoke else "training")
    for num_rows, profile in ((200, "tiny"),) if asked.smoke else SIZES:
        if asked.smoke or asked.least <= num_rows <= asked.most:
            run(bench, num_rows, profile)
    if not asked.smoke:
        _judge_growth(bench)
    bench.finish()


def _judge_growth(bench: Bench) -> None:
    """Compare the largest size with the one before it: CPU time per listing and peak memory."""
    for stage in ("embed", "train"):
        rows = [r for r in bench.rows if r["stage"] == stage and r["profile"] == "tiny"]
        if len(rows) < 2:
            continue
        first, last = rows[-2], rows[-1]
        slower = (last["CPU s"] / last["listings"]) / (first["CPU s"] / first["listings"])
        bench.targets.append(
            Target(f"{stage}: CPU time per listing", "<= 1.2 x", slower, slower <= 1.2)
        )
        grown = last["peak MB"] - first["peak MB"]
        times = last["listings"] / first["listings"]
        bench.targets.append(
            Target(f"{stage}: MB more at {times:.0f} x the listings", "<= 500", grown, grown <= 500)
        )


if __name__ == "__main__":
    main()
