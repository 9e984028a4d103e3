"""The gate stage of one candidate, as the pipeline runs it, in a process of its own."""

import shutil
from pathlib import Path
from typing import Final

from components.home import Home
from components.judge import step as judging
from components.prove import step as proving
from moderation.clock import SystemClock
from moderation.settings import Settings
from pipelines.parameters import contract_text, policy_text

PROFILE: Final = "demo"


def prove_and_judge(
    config: Settings, champion: Path, release: Path, table: Path, seed: int
) -> dict[str, float]:
    """Return rows and seconds by part of the stage; evidence and pack go to folders of their own.

    Args:
        config: names home, contract and policies.
        champion: bundle that serves.
        release: bundle of the candidate.
        table: the snapshot that it was trained on.
        seed: draws the listings that are attacked.
    """
    home, clock = Home(config.home), SystemClock()
    evidence, pack = home.folder / "bench-evidence", home.folder / "bench-pack"
    shutil.rmtree(evidence, ignore_errors=True)
    contract = contract_text(config.release_file, PROFILE)
    inputs = proving.ProveInputs(str(release), str(champion), str(table), str(home.folder))
    counts = proving.run(inputs, contract, policy_text(config.policy_file), seed, out=str(evidence))
    begin = clock.monotonic()
    judged = judging.JudgeInputs(str(evidence), str(release), str(home.folder))
    judging.run(judged, contract, PROFILE, seed, pack=str(pack))
    return counts | {"judge_and_pack_seconds": clock.monotonic() - begin}
