"""Appends a second at several numbers of callers: group commit, each for itself, and the spill; every one durable."""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Bench, Target
from ledger.events import Event, from_decision
from ledger.frames import Entry
from ledger.group import GroupWriter
from ledger.keys import FILE_NAME, KeyRing
from ledger.ledger import SqliteLedger
from ledger.spill import Spill
from moderation.clock import SystemClock
from moderation.decision import Decision, Versions

CALLERS: Final = (1, 8, 64)
_SELLERS: Final = 100
_GOAL: Final = 3.0
"""Times as many appends a second as without groups, at the largest number of callers."""


@dataclass(frozen=True)
class _Sizes:
    appends: int
    """Of each caller."""

    rounds: int


FULL: Final = _Sizes(appends=100, rounds=5)
SMOKE: Final = _Sizes(appends=5, rounds=1)

Append = Callable[[Sequence[Event]], object]


def main() -> None:
    """Append, count, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=ledger")
    parser.add_argument("--smoke", action="store_true", help="five appends of each caller")
    asked = parser.parse_args()
    bench = Bench("ledger-smoke" if asked.smoke else "ledger")
    sizes = SMOKE if asked.smoke else FULL
    folder = Path(tempfile.mkdtemp(prefix="tidegate-ledger-", dir=Path.cwd() / "build"))
    try:
        _measure(bench, sizes, folder)
    finally:
        shutil.rmtree(folder)
    bench.notes.append(
        "one append is one decision of a known seller, sealed, on the disk when the call returns"
    )
    bench.finish()


def _measure(bench: Bench, sizes: _Sizes, folder: Path) -> None:
    """Take the ways in turn, round by round, so that what else the machine does meets all of them."""
    rates: dict[tuple[str, int], list[float]] = {}
    waits: dict[tuple[str, int], list[float]] = {}
    for k in range(sizes.rounds):
        for callers in CALLERS:
            for way in ("group commit", "plain", "spill"):
                rate, latencies = _run(folder / f"{way}-{callers}-{k}", way, callers, sizes)
                rates.setdefault((way, callers), []).append(rate)
                waits.setdefault((way, callers), []).extend(latencies)
    for (way, callers), found in rates.items():
        latencies = sorted(waits[way, callers])
        bench.rows.append(
            {
                "way": way,
                "callers": callers,
                "appends/s": statistics.median(found),
                "p50 ms": latencies[len(latencies) // 2] * 1e3,
                "p99 ms": latencies[int(len(latencies) * 0.99)] * 1e3,
            }
        )
    most = CALLERS[-1]
    gain = statistics.median(rates["group commit", most]) / statistics.median(rates["plain", most])
    name = f"group commit against plain, {most} callers"
    bench.targets.append(Target(name, f">= {_GOAL} times", gain, gain >= _GOAL))


def _run(folder: Path, way: str, callers: int, sizes: _Sizes) -> tuple[float, list[float]]:
    """Return appends a second, and how long each took in seconds."""
    ledger, clock = SqliteLedger(folder / "ledger.sqlite"), SystemClock()
    ring = KeyRing(folder / FILE_NAME)
    ring.of([f"seller-{n}" for n in range(_SELLERS)])
    append, close = _way(way, ledger, Spill(folder / "spill", ring, 2**32))
    events = [
        [_decided(f"{caller}-{n}", clock) for n in range(sizes.appends)]
        for caller in range(callers)
    ]

    def call(mine: list[Event]) -> list[float]:
        taken = []
        for event in mine:
            begin = clock.monotonic()
            append([event])
            taken.append(clock.monotonic() - begin)
        return taken

    with ThreadPoolExecutor(callers) as pool:
        begin = clock.monotonic()
        latencies = [one for taken in pool.map(call, events) for one in taken]
        seconds = clock.monotonic() - begin
    close()
    return len(latencies) / seconds, latencies


def _way(way: str, ledger: SqliteLedger, spill: Spill) -> tuple[Append, Callable[[], None]]:
    if way == "plain":
        return ledger.append, spill.close
    if way == "group commit":
        group: GroupWriter[Sequence[Event]] = GroupWriter("ledger", ledger.append_each)
        return group.write, group.close
    spills: GroupWriter[Entry] = GroupWriter("spill", spill.write_each)
    return lambda events: spills.write(spill.seal(events)), partial(_close, spills, spill)


def _close(spills: GroupWriter[Any], spill: Spill) -> None:
    spills.close()
    spill.close()


def _decided(name: str, clock: SystemClock) -> Event:
    now = clock.now()
    decision = Decision(
        decision_id=f"d-{name}",
        trace_id=f"t-{name}",
        submission_id=name,
        tier="allow",
        reason_codes=(),
        attempts=(),
        arm="champion",
        weight=1.0,
        sticky_key="s",
        routing_revision=1,
        input_digests={f"image.{k}": "0" * 64 for k in range(8)},
        features=(),
        versions=Versions(bundle=None, policy="1"),
        submitted_at=now,
        decided_at=now,
    )
    return from_decision(
        decision, recorded_at=now, seller_id=f"seller-{sum(name.encode()) % _SELLERS}"
    )


if __name__ == "__main__":
    main()
