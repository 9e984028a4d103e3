"""The prefilter of a real bundle, from a real predictor process to the gateway's stage, without the bundle's folder."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from moderation.behaviour_prefilter import Prefilter
from moderation.bundle import build
from moderation.clock import SystemClock
from moderation.features import FEATURE_NAMES
from serving.client import PredictorClient
from serving.gateway.behaviour import Behaviour
from serving.gateway.behaviour_stage import BehaviourStage
from serving.process import start_predictor
from tests.prefiltered import RULES, behaviours, evidence
from tests.tiny_bundle import TinyRun

pytestmark = pytest.mark.slow


async def test_a_gateway_judges_as_the_bundle_does(tiny: TinyRun, tmp_path: Path) -> None:
    evidence(-1.0).save(tmp_path / "prefilter.json")
    parts = tiny.parts | {"prefilter": tmp_path / "prefilter.json"}
    bundle = build(tmp_path / "bundle", parts, tiny.description)
    stage = BehaviourStage(RULES, SystemClock())
    with start_predictor(
        bundle.folder, log_folder=tmp_path, num_threads=1, is_unattested=True
    ) as process:
        client = PredictorClient(process.url)
        stage.prepare(bundle.digest, partial(client.prefilter, timeout_s=20))
        await stage.ready()
        await client.close()
    local = Prefilter.load(bundle.folder)
    assert local is not None
    known_F = np.zeros(len(FEATURE_NAMES), np.int8)
    for values_F in behaviours(40, seed=4):
        said = stage.judge(bundle.digest, Behaviour(values_F, known_F, None), 0.5)
        there = local.judge(values_F, known_F == 0)
        assert (said.lets_go, said.score, said.reason) == (there.lets_go, there.score, there.reason)
        assert said.score is not None


def test_the_stage_needs_no_torch() -> None:
    code = (
        "import sys; from serving.gateway import behaviour_stage; from tests.prefiltered import prefilter; "
        "from serving.gateway.behaviour_stage import _read; assert _read(prefilter().to_bytes()).prefilter; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
