"""Online reads beside Feast's plain client and the bare store; the stream, the join, and online against offline."""

import argparse
import asyncio
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from feast import FeatureStore

from benchmarks.features.events import arriving, drawn_upload
from benchmarks.harness import Bench, Target
from benchmarks.redis_process import redis_server, running_redis
from featurestore.history import behaviour_at
from featurestore.layout import Place
from featurestore.letters import DeadLetters
from featurestore.online import OnlineReader, OnlineRows, open_rows
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from ledger.ledger import SqliteLedger
from moderation.activity_rows import RowKind
from moderation.behaviour import Keys
from moderation.clock import SimulatedClock, SystemClock
from moderation.listing import Submission
from moderation.release import load_release
from serving.deadline import Deadline
from serving.gateway.behaviour import BudgetedBehaviour
from serving.gateway.breaker import Breaker

_SEED: Final = 5
_BUDGET_S: Final = 5.0
_JUST_AFTER: Final = timedelta(microseconds=2)
GOAL_MS: Final = 1.0
"""99th percentile of one decision's read."""


@dataclass
class _Sizes:
    events: int
    sellers: int
    batch: int
    asked: int
    reads: int


FULL: Final = _Sizes(events=100_000, sellers=8_000, batch=500, asked=100_000, reads=2_000)
SMOKE: Final = _Sizes(events=1_000, sellers=100, batch=200, asked=600, reads=50)


@dataclass
class _Streamed:
    """A store that every event went into, and what was asked on the way."""

    place: Place
    store: FeatureStore
    rows: OnlineRows
    asked: list[Submission]
    online_NF: np.ndarray
    events: int
    versions: int
    seconds: float


def main() -> None:
    """Stream, read, join, compare, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=features")
    parser.add_argument("--smoke", action="store_true", help="a thousand events")
    asked = parser.parse_args()
    bench = Bench("features-smoke" if asked.smoke else "features")
    sizes = SMOKE if asked.smoke else FULL
    folder = Path(tempfile.mkdtemp(prefix="tidegate-features-"))
    try:
        for name, url in _stores(folder):
            with url as redis_url:
                place = Place(folder / name / "features", redis_url)
                streamed = _stream(place, sizes, folder / name / "ledger.sqlite")
                bench.rows.append(
                    _row(name, "stream", "events/s", streamed.events / streamed.seconds)
                )
                bench.notes.append(
                    f"{name}: {streamed.events} events made {streamed.versions} versions of rows"
                )
                _read(bench, name, streamed, sizes)
                _read_as_gateway(bench, name, streamed, sizes)
                if redis_url is None:
                    _compare(bench, streamed)
    finally:
        shutil.rmtree(folder)
    if not redis_server():
        bench.notes.append("redis-server is not installed: Redis was skipped")
    bench.finish()


def _stores(folder: Path) -> Iterator[tuple[str, Any]]:
    yield "sqlite", _no_server()
    if redis_server():
        yield "redis", _server(folder)


@contextmanager
def _no_server() -> Iterator[None]:
    yield None


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    with running_redis(folder) as (url, _):
        yield url


def _stream(place: Place, sizes: _Sizes, path: Path) -> _Streamed:
    """Stream every event, and ask about uploads of drawn sellers after each batch, before the next arrives."""
    store = apply(place)
    rows = open_rows(place, _BUDGET_S)
    path.parent.mkdir(exist_ok=True, parents=True)
    ledger, timer = SqliteLedger(path), SystemClock()
    events = arriving(_SEED, sizes.events, sizes.sellers)
    first = next(events)
    clock = SimulatedClock(first.recorded_at)
    letters = DeadLetters(place.folder / "stream.sqlite")
    stream = FeatureStream(ledger, FeastSink(store, place), letters, clock)
    stream.step()
    reader, rng = OnlineReader(rows), Random(_SEED)
    asked: list[Submission] = []
    online: list[np.ndarray] = []
    num_events, versions, seconds = 0, 0, 0.0
    num_batches = -(-sizes.events // sizes.batch)
    batch = [first, *islice(events, sizes.batch - 1)]
    while batch:
        ledger.append(batch)
        clock.move_to(batch[-1].recorded_at)
        begin = timer.monotonic()
        done = stream.step()
        seconds += timer.monotonic() - begin
        num_events += done.events
        versions += done.versions
        now = clock.now() + _JUST_AFTER
        questions = [
            drawn_upload(rng, f"q{len(asked) + n}", now, sizes.sellers)
            for n in range(-(-sizes.asked // num_batches))
        ]
        for begin_at in range(0, len(questions), 100):
            some = questions[begin_at : begin_at + 100]
            online += [read.behaviour_F for read in reader.read_many(some)]
        asked += questions
        batch = list(islice(events, sizes.batch))
    return _Streamed(place, store, rows, asked, np.stack(online), num_events, versions, seconds)


def _read(bench: Bench, name: str, streamed: _Streamed, sizes: _Sizes) -> None:
    """Time ours, Feast's plain client and the bare store, one after the other on the same keys."""
    reader = OnlineReader(streamed.rows)
    refs = [*(f"{kind.view}:{kind.column}" for kind in RowKind), "stream_state:through_us"]
    rng = Random(_SEED)
    for num in (1, 10, 100):
        repeats = max(20, sizes.reads // num)
        times: dict[str, list[float]] = {"ours": [], "Feast's client": [], "bare store": []}
        for _ in range(repeats):
            asked = rng.sample(streamed.asked, num)
            entities = [_entity(one) for one in asked]
            wanted = _wanted(asked)
            for who, call in (
                ("ours", lambda asked=asked: reader.read_many(asked)),
                (
                    "Feast's client",
                    lambda entities=entities: streamed.store.get_online_features(
                        features=refs, entity_rows=entities
                    ).to_dict(),
                ),
                ("bare store", lambda wanted=wanted: streamed.rows.read(wanted)),
            ):
                times[who].append(_milliseconds(call))
        for who, found in times.items():
            p50, p99 = statistics.median(found), float(np.quantile(found, 0.99))
            bench.rows.append(_row(name, f"read {num}: {who}", "ms p50", p50))
            bench.rows.append(_row(name, f"read {num}: {who}", "ms p99", p99))
        ours, theirs = (float(np.quantile(times[who], 0.99)) for who in ("ours", "Feast's client"))
        ratio = statistics.median(times["ours"]) / statistics.median(times["Feast's client"])
        if num == 1:
            bench.targets.append(
                Target(f"{name}: one read, p99 in ms", f"<= {GOAL_MS:g}", ours, ours <= GOAL_MS)
            )
        bench.targets.append(
            Target(f"{name}: {num} over Feast's client, p50", "<= 1", ratio, ratio <= 1)
        )
        bench.targets.append(
            Target(f"{name}: {num} over Feast's client, p99", "<= 1", ours / theirs, ours <= theirs)
        )


def _read_as_gateway(bench: Bench, name: str, streamed: _Streamed, sizes: _Sizes) -> None:
    """Time the call of a decision: on an event loop, off its thread, with budget, breaker and all checks."""
    rules = load_release(Path("policies/release.yaml")).serving
    breaker = Breaker("features", rules.breakers.features, SystemClock())
    budgeted = BudgetedBehaviour(OnlineReader(streamed.rows), breaker)

    async def timed() -> list[float]:
        timer, rng, found = SystemClock(), Random(_SEED), []
        for _ in range(max(20, sizes.reads)):
            one = rng.choice(streamed.asked)
            begin = timer.monotonic()
            await budgeted.read(one, Deadline(rules.budgets, timer))
            found.append((timer.monotonic() - begin) * 1e3)
        return found

    found = asyncio.run(timed())
    p50, p99 = statistics.median(found), float(np.quantile(found, 0.99))
    bench.rows.append(_row(name, "read 1: the gateway's call", "ms p50", p50))
    bench.rows.append(_row(name, "read 1: the gateway's call", "ms p99", p99))
    goal = f"<= {GOAL_MS:g}"
    bench.targets.append(
        Target(f"{name}: the gateway's call, p99 in ms", goal, p99, p99 <= GOAL_MS)
    )


def _compare(bench: Bench, streamed: _Streamed) -> None:
    """Join every upload that was asked about with the history, and count what differs from the answer online."""
    timer = SystemClock()
    begin = timer.monotonic()
    offline_NF = behaviour_at(streamed.place.folder, streamed.asked)
    seconds = timer.monotonic() - begin
    num = len(streamed.asked)
    bench.rows.append(_row("history", f"join of {num} uploads", "s", seconds))
    is_same = (offline_NF == streamed.online_NF) | (
        np.isnan(offline_NF) & np.isnan(streamed.online_NF)
    )
    mismatches = int((~is_same).sum())
    bench.targets.append(
        Target(f"values that differ, of {is_same.size}", "0", mismatches, not mismatches)
    )


def _entity(submission: Submission) -> dict[str, str]:
    keys = Keys.of(submission)
    return {kind.join_key: keys[kind] or "" for kind in RowKind} | {"stream_id": "activity"}


def _wanted(asked: list[Submission]) -> dict[str, list[bytes]]:
    from featurestore.online import _places

    wanted: dict[str, dict[bytes, None]] = {}
    for one in asked:
        for view, key in _places(one).values():
            wanted.setdefault(view, {})[key] = None
    return {view: list(keys) for view, keys in wanted.items()}


def _milliseconds(call: Callable[[], object]) -> float:
    timer = SystemClock()
    begin = timer.monotonic()
    call()
    return (timer.monotonic() - begin) * 1e3


def _row(store: str, what: str, unit: str, value: float) -> dict[str, Any]:
    return {"store": store, "what": what, "unit": unit, "value": value}


if __name__ == "__main__":
    main()
