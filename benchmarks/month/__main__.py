"""Per policy: weighted PR-AUC at the true prevalence of the baseline, each single modality, fusion and the ensemble.

The default world is simulated, the daily pipeline runs on it, and its last fifth (about three weeks) is judged.
"""

import argparse

from benchmarks.harness import Bench, Target
from benchmarks.judged import EVERYTHING, home_of, rows_of, train_and_judge
from components.home import Home
from marketplace.config import WorldConfig
from moderation.policy import load_policies
from moderation.settings import settings
from pipelines.parameters import Choices
from tidegate.world import build_world

EVASIVE = "evasive violations"
SINGLE = ("image", "text", "ngram", "behaviour")


def main() -> None:
    """Simulate, train, judge, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=month")
    parser.add_argument("--smoke", action="store_true", help="the tiny world, tiny towers")
    parser.add_argument("--scale", type=float, default=1.0, help="traffic per day, 1 = default")
    asked = parser.parse_args()
    smoke = asked.smoke
    bench = Bench("month-smoke" if smoke else "month")
    config = settings().model_copy(update={"home": home_of(bench.name).resolve()})
    world = WorldConfig.tiny() if smoke else WorldConfig.default().scaled(asked.scale)
    built = build_world(world, Home(config.home), load_policies(config.policy_file))
    choices = Choices(
        built.logical_date,
        profile="tiny" if smoke else "small",
        num_trials=2 if smoke else 12,
        min_positives=1 if smoke else 30,
    )
    bench.rows = rows_of(train_and_judge(choices, config))
    if asked.scale != 1 and not smoke:
        bench.notes.append(f"{asked.scale:g} of the default world's traffic: wider intervals")
    if not smoke:
        bench.targets = [
            Target(
                f"{row['policy']}, {row['slice']}: ensemble over {row['score']} {row['AP']:.3f}",
                "lower bound > 0",
                float(str(row["ensemble's lead"]).split()[0]),
                row["ensemble's lead"].endswith("better"),
            )
            for row in bench.rows
            if row["score"] in SINGLE and row["slice"] in (EVERYTHING, EVASIVE)
        ]
    bench.finish()


if __name__ == "__main__":
    main()
