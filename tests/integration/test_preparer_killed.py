"""The processes that prepare for a real predictor: killed under load no listing is lost, and none outlives it."""

import asyncio
import io
import os
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from moderation.bundle import Bundle
from serving.process import ServingProcess, start_predictor
from tests.v2_calls import INFER, json_body, metric

pytestmark = pytest.mark.slow

ENDED = "tidegate_predictor_preparers_ended_total"
PATIENCE_S = 60


def _photo() -> bytes:
    noise = np.random.default_rng(5).integers(0, 255, (1_200, 1_600, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def _preparers(predictor: ServingProcess) -> set[int]:
    """Return the predictor's children by what they run."""
    children = Path(f"/proc/{predictor.pid}/task/{predictor.pid}/children").read_text().split()
    found = set[int]()
    for pid in map(int, children):
        if b"serving.predictor.preparer" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.add(pid)
    return found


async def test_no_listing_is_lost_when_preparers_are_killed_and_none_outlives_the_predictor(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    photo, statuses = _photo(), list[int]()
    environment = {"TIDEGATE__PREDICTOR_PREPARERS": "2"}
    with start_predictor(
        tiny_bundle.folder,
        log_folder=tmp_path,
        num_threads=1,
        environment=environment,
        is_unattested=True,
    ) as predictor:
        first = _preparers(predictor)
        assert len(first) == 2
        async with httpx.AsyncClient(
            base_url=predictor.http_url, timeout=PATIENCE_S, trust_env=False
        ) as client:

            async def call(number: int) -> None:
                for turn in range(12):
                    body = json_body([f"lamp {number} {turn}"], [photo])
                    statuses.append((await client.post(INFER, json=body)).status_code)

            calls = [asyncio.create_task(call(number)) for number in range(8)]
            for pid in first:
                await asyncio.sleep(0.3)
                os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*calls)
        assert statuses == [200] * 96
        second = _preparers(predictor)
        assert len(second) == 2
        assert not first & second
        assert metric(predictor, ENDED) == 2
    for pid in second:
        async with asyncio.timeout(PATIENCE_S):
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(0.05)
