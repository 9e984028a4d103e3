"""The gateway's answer beside the predictor's own: one caller, unloaded, both asked in turn about the same uploads."""

import argparse
import asyncio
import contextlib
import http.client
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.harness import Bench, Target
from benchmarks.serving.bundles import bundle_folder
from moderation.bundle import Bundle
from moderation.clock import SystemClock
from moderation.features import FEATURE_NAMES
from serving.client import PredictorClient, Query
from serving.garbage import freeze_loaded
from serving.load.sender import encode_upload
from tests.gate_under_load import TOKEN, Gate
from tests.toy import toy_world

GOAL_MS: Final = 3.0
_LISTINGS: Final = 64


@dataclass(frozen=True)
class _Sizes:
    calls: int
    warm_up: int
    profiles: tuple[str, ...]


FULL: Final = _Sizes(calls=2_000, warm_up=100, profiles=("tiny", "small"))
SMOKE: Final = _Sizes(calls=60, warm_up=10, profiles=("tiny",))


def main() -> None:
    """Serve, ask both, print."""
    parser = argparse.ArgumentParser(prog="make bench NAME=gateway")
    parser.add_argument("--smoke", action="store_true", help="tiny alone, few calls")
    asked = parser.parse_args()
    sizes = SMOKE if asked.smoke else FULL
    bench = Bench("gateway-smoke" if asked.smoke else "gateway")
    for profile in sizes.profiles:
        folder = Path(tempfile.mkdtemp(prefix="tidegate-gateway-"))
        try:
            bundle = Bundle.open(Path(bundle_folder(profile, "build/bench-serving")))
            _compare(bench, profile, Gate(folder, bundle), sizes)
        finally:
            shutil.rmtree(folder)
    bench.notes.append(
        "the gateway reads behaviour, runs stage 1 and makes submission and decision durable"
    )
    bench.finish()


def _compare(bench: Bench, profile: str, gate: Gate, sizes: _Sizes) -> None:
    with contextlib.ExitStack() as stack:
        predictor = stack.enter_context(gate.predictor())
        stack.enter_context(gate.features())
        gateway = stack.enter_context(gate.gateway())
        ours_ms, direct_ms = asyncio.run(
            _ask_both(predictor.url, gateway.http_url, gate.bundle.digest, sizes)
        )
    for name, found in (("predictor, gRPC", direct_ms), ("gateway, HTTP", ours_ms)):
        p50, p99 = np.quantile(found, [0.5, 0.99])
        bench.rows.append(
            {"profile": profile, "asked": name, "ms p50": float(p50), "ms p99": float(p99)}
        )
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        added = float(np.quantile(ours_ms, quantile) - np.quantile(direct_ms, quantile))
        title = f"{profile}: added by the gateway, {name} in ms"
        bench.targets.append(Target(title, f"<= {GOAL_MS:g}", added, added <= GOAL_MS))


async def _ask_both(
    predictor_url: str, gateway_url: str, bundle: str, sizes: _Sizes
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of each call, after the warm-up: through the gateway, and of the predictor alone."""
    world = toy_world(_LISTINGS, seed=31)
    listings = [(row.submission.listing, world.images(row)) for row in world.rows]
    bodies = [
        encode_upload(listing.model_dump(mode="json", exclude_none=True), images)
        for listing, images in listings
    ]
    unknown_F = np.zeros(len(FEATURE_NAMES), np.float32), np.ones(len(FEATURE_NAMES), np.int8)
    queries = [Query(one.title, one.description, images, *unknown_F) for one, images in listings]
    timer, ours_ms, direct_ms = SystemClock(), [], []
    client = PredictorClient(predictor_url)
    freeze_loaded()
    # The standard library's client: a comfortable one takes a millisecond itself.
    gateway = http.client.HTTPConnection(gateway_url.removeprefix("http://"), timeout=20)
    with contextlib.closing(gateway):
        for number in range(sizes.calls + sizes.warm_up):
            begin = timer.monotonic()
            await client.ask(queries[number % _LISTINGS], bundle=bundle, timeout_s=20)
            between = timer.monotonic()
            _upload(gateway, bodies[number % _LISTINGS])
            end = timer.monotonic()
            if number >= sizes.warm_up:
                direct_ms.append((between - begin) * 1e3)
                ours_ms.append((end - between) * 1e3)
    await client.close()
    return ours_ms, direct_ms


def _upload(gateway: http.client.HTTPConnection, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    gateway.request("POST", "/v1/decisions", body, headers)
    answer = gateway.getresponse()
    said = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"the gateway answered {answer.status}: {said[:200]!r}")


if __name__ == "__main__":
    main()
