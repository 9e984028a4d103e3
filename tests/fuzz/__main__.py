"""Read hostile inputs by everything that reads bytes from outside, then the whole HTTP API; `make fuzz`.

Half of the inputs are seeded mutations, half are guided by coverage. Exits non-zero where anything broke; the input
at fault lies in `build/fuzz` then.
"""

import argparse
import base64
import json
import math
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from moderation.clock import SystemClock
from tests.fuzz.child import Figures, Job
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

OUT: Final = Path("build/fuzz")
_LIMIT_S: Final = 1_800
"""Seconds until a process that still reads counts as hanging."""


def plan(inputs: int, names: list[str]) -> list[tuple[Target, int, bool]]:
    """Return each target with its inputs, twice: seeded, and guided."""
    chosen = [TARGETS[name] for name in names or TARGETS]
    whole = sum(target.share for target in chosen)
    found = []
    for target in chosen:
        ways = (False, True) if target.modules else (False,)
        number = math.ceil(inputs * target.share / whole / len(ways))
        found += [(target, number, guided) for guided in ways]
    return found


def run_child(
    target: Target, inputs: int, guided: bool, *, seed: int, python: str = sys.executable
) -> Figures:
    """Return what a process of its own found in `inputs` inputs; that it ended is a finding too."""
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        job = Job(target.name, inputs, seed, target.modules if guided else (), folder)
        command = [python, "-m", "tests.fuzz.child", json.dumps(asdict(job))]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
            said = f"ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2_000:]}"
        except subprocess.TimeoutExpired:
            said = f"did not end within {_LIMIT_S} s"
        figures = Path(folder, "figures.json")
        if figures.exists():
            content = json.loads(figures.read_text())
            content["findings"] = tuple(map(tuple, content["findings"]))
            return Figures(**content)
        last = Path(folder, "last")
        data = last.read_bytes() if last.exists() else b""
    finding = (said, base64.b64encode(data).decode())
    return Figures(target.name, guided, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, (finding,))


def main(arguments: list[str]) -> int:
    """Fuzz by the command line's arguments and return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}, api; all, if none")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--api-seconds", type=float, default=60)
    asked = parser.parse_args(arguments)
    clock, names = SystemClock(), [name for name in asked.targets if name != "api"]
    begin = clock.monotonic()
    jobs = plan(asked.inputs, names) if names or "api" not in asked.targets else []
    with ThreadPoolExecutor(asked.jobs) as pool:
        found = list(pool.map(lambda job: run_child(*job, seed=asked.seed), jobs))
    say = sys.stdout.write
    say(_table(found) + "\n")
    if jobs:
        say(
            f"{sum(one.inputs for one in found):,} inputs, {sum(one.seconds for one in found):.0f} s of CPU in them, "
            f"{clock.monotonic() - begin:.0f} s on the clock, {sum(len(one.findings) for one in found)} defects\n"
        )
    is_sound = _tell(found)
    if "api" in asked.targets or not asked.targets:
        from tests.fuzz.api import fuzz_api

        told, is_api_sound = fuzz_api(asked.api_seconds, asked.seed)
        say(told + "\n")
        is_sound = is_sound and is_api_sound
    return 0 if is_sound else 1


def _table(found: list[Figures]) -> str:
    head = "| target | inputs | CPU s | slowest ms (bytes) | of its limit | MB at most | MB kept | defects |"
    rows = [
        f"| {one.target}{', guided' if one.guided else ''} | {one.inputs:,} | {one.seconds:.1f} "
        f"| {one.slowest_ms:.1f} ({one.slowest_bytes:,}) | {one.nearest:.2f} "
        f"| {one.peak_mb:.0f} | {one.kept_mb:.0f} | {len(one.findings)} |"
        for one in found
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


def _tell(found: list[Figures]) -> bool:
    """Print every finding, keep its input, and return whether there was none."""
    findings: list[tuple[str, Any]] = [(one.target, each) for one in found for each in one.findings]
    if findings:
        OUT.mkdir(parents=True, exist_ok=True)
    for number, (target, (what, data)) in enumerate(findings):
        path = OUT / f"{target}-{number}.bin"
        path.write_bytes(base64.b64decode(data))
        sys.stdout.write(f"\n{target}: {what}\n  input: {path}\n")
    return not findings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
