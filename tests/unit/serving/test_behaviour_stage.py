"""The behaviour stage of the gateway: without a verified prefilter and whole behaviour, everything goes on."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from moderation.behaviour_prefilter import Prefilter, digest_of
from moderation.boosting import BoostingModel
from moderation.clock import SimulatedClock
from moderation.decision import STATUS_CODES, SignalStatus
from moderation.features import FEATURE_NAMES
from serving.errors import PredictorError
from serving.gateway.behaviour import Behaviour
from serving.gateway.behaviour_stage import ANSWERS, BehaviourStage
from tests.prefiltered import AGE, RULES, behaviours, evidence, prefilter
from tests.unit.serving.fakes import BUNDLE, NOON

CALM, BUSY = behaviours(2)
NEVER = 0.5
"""A draw that sends nothing on."""


class Source:
    """A predictor at the network's edge: gives bytes, or fails as told."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.error: Exception | None = None
        self.asked: list[str] = []

    async def fetch(self, *, bundle: str) -> bytes | None:
        self.asked.append(bundle)
        if self.error:
            raise self.error
        return self.data


@pytest.fixture(scope="module")
def opened() -> Prefilter:
    return prefilter()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOON)


@pytest.fixture
async def stage(clock: SimulatedClock) -> AsyncIterator[BehaviourStage]:
    stage = BehaviourStage(RULES, clock)
    yield stage
    await stage.close()


def _read(values_F: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Behaviour:
    return Behaviour(values_F, np.zeros(len(FEATURE_NAMES), np.int8), NOON)


async def _fetched(stage: BehaviourStage, source: Source, bundle: str = BUNDLE) -> None:
    stage.prepare(bundle, source.fetch)
    await stage.ready()


async def test_a_calm_seller_passes_and_a_busy_one_goes_on(
    stage: BehaviourStage, opened: Prefilter
) -> None:
    data = opened.to_bytes()
    await _fetched(stage, Source(data))
    calm, busy = (stage.judge(BUNDLE, _read(one), NEVER) for one in (CALM, BUSY))
    assert (calm.lets_go, calm.status, calm.was_random) == (True, SignalStatus.OK, False)
    assert (busy.lets_go, busy.status) == (False, SignalStatus.OK)
    assert calm.version == digest_of(data)
    assert calm.random_share == RULES.random_share
    assert calm.score is not None


async def test_a_drawn_one_goes_on_and_says_so(stage: BehaviourStage, opened: Prefilter) -> None:
    await _fetched(stage, Source(opened.to_bytes()))
    drawn = stage.judge(BUNDLE, _read(CALM), RULES.random_share / 2)
    assert (drawn.lets_go, drawn.was_random) == (False, True)
    busy = stage.judge(BUNDLE, _read(BUSY), RULES.random_share / 2)
    assert not busy.was_random, "it goes on anyway"


@pytest.mark.parametrize("status", [SignalStatus.MISSING, SignalStatus.ERROR])
async def test_a_feature_that_is_not_ok_goes_on(
    stage: BehaviourStage, opened: Prefilter, status: SignalStatus
) -> None:
    await _fetched(stage, Source(opened.to_bytes()))
    status_F = np.zeros(len(FEATURE_NAMES), np.int8)
    status_F[3] = STATUS_CODES[status]
    said = stage.judge(BUNDLE, replace(_read(CALM), status_F=status_F), NEVER)
    assert (said.lets_go, said.status) == (False, SignalStatus.MISSING)
    assert FEATURE_NAMES[3] in said.reason


async def test_behaviour_that_could_not_be_read_goes_on(
    stage: BehaviourStage, opened: Prefilter
) -> None:
    await _fetched(stage, Source(opened.to_bytes()))
    said = stage.judge(BUNDLE, Behaviour.failed("timeout"), NEVER)
    assert (said.lets_go, said.status) == (False, SignalStatus.MISSING)


async def test_a_new_seller_goes_on(stage: BehaviourStage, opened: Prefilter) -> None:
    await _fetched(stage, Source(opened.to_bytes()))
    values_F = CALM.copy()
    values_F[AGE] = 0.5
    assert not stage.judge(BUNDLE, _read(values_F), NEVER).lets_go


async def test_before_it_is_fetched_everything_goes_on(stage: BehaviourStage) -> None:
    said = stage.judge(BUNDLE, _read(CALM), NEVER)
    assert (said.lets_go, said.status, said.reason) == (
        False,
        SignalStatus.MISSING,
        "not fetched yet",
    )
    assert not stage.judge(None, _read(CALM), NEVER).lets_go


async def test_a_closed_one_lets_nothing_go(stage: BehaviourStage, opened: Prefilter) -> None:
    await _fetched(stage, Source(Prefilter(evidence(None), opened.model).to_bytes()))
    said = stage.judge(BUNDLE, _read(CALM), NEVER)
    assert (said.lets_go, said.status) == (False, SignalStatus.MISSING)
    assert "closed" in said.reason


async def test_a_bundle_without_one_is_asked_once(stage: BehaviourStage) -> None:
    source = Source(None)
    for _ in range(3):
        await _fetched(stage, source)
    assert source.asked == [BUNDLE]
    assert "no prefilter" in stage.judge(BUNDLE, _read(CALM), NEVER).reason


async def test_what_cannot_be_fetched_is_asked_for_again_later(
    stage: BehaviourStage, opened: Prefilter, clock: SimulatedClock
) -> None:
    source = Source(opened.to_bytes())
    source.error = PredictorError("it is down")
    await _fetched(stage, source)
    await _fetched(stage, source)
    assert len(source.asked) == 1, "it is left alone for a while"
    said = stage.judge(BUNDLE, _read(CALM), NEVER)
    assert (said.lets_go, said.status) == (False, SignalStatus.ERROR)
    assert "it is down" in said.reason
    source.error = None
    clock.advance(RULES.retry_s)
    await _fetched(stage, source)
    assert stage.judge(BUNDLE, _read(CALM), NEVER).lets_go


async def test_unreadable_bytes_let_nothing_go(stage: BehaviourStage) -> None:
    await _fetched(stage, Source(b'{"prefilter": {}}'))
    said = stage.judge(BUNDLE, _read(CALM), NEVER)
    assert (said.lets_go, said.status) == (False, SignalStatus.ERROR)


async def test_trees_that_fail_let_nothing_go(
    stage: BehaviourStage, opened: Prefilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fetched(stage, Source(opened.to_bytes()))

    def broken(self: BoostingModel, values: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(BoostingModel, "logits", broken)
    said = stage.judge(BUNDLE, _read(CALM), NEVER)
    assert (said.lets_go, said.status) == (False, SignalStatus.ERROR)
    assert "out of memory" in said.reason


async def test_each_release_has_its_own_and_old_ones_are_forgotten(
    stage: BehaviourStage, opened: Prefilter
) -> None:
    source, none = Source(opened.to_bytes()), Source(None)
    await _fetched(stage, source)
    for number in range(4):
        await _fetched(stage, none, f"{number}" * 64)
    assert not stage.judge(BUNDLE, _read(CALM), NEVER).lets_go
    await _fetched(stage, source)
    assert stage.judge(BUNDLE, _read(CALM), NEVER).lets_go
    assert source.asked == [BUNDLE, BUNDLE]


async def test_every_answer_is_counted(stage: BehaviourStage, opened: Prefilter) -> None:
    await _fetched(stage, Source(opened.to_bytes()))
    before = ANSWERS.labels("let_go")._value.get()
    stage.judge(BUNDLE, _read(CALM), NEVER)
    assert ANSWERS.labels("let_go")._value.get() == before + 1
