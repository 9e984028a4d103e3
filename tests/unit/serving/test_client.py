from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from moderation.features import FEATURE_NAMES
from serving.client import PredictorClient, Query
from serving.errors import PredictorError, PredictorTimeout
from tests.unit.serving.fakes import BUNDLE, FakePredictor, a_release

F = len(FEATURE_NAMES)
QUERY = Query("title", "", (b"\xff\xd8photo",), np.ones(F, np.float32), np.zeros(F, np.int8))


@pytest.fixture
async def asker(predictor: FakePredictor) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(predictor.url)
    yield client
    await client.close()


def _drop(response: Any) -> None:
    del response.outputs[0], response.raw_output_contents[0]


def _widen(response: Any) -> None:
    response.outputs[0].shape[1] = 2
    response.raw_output_contents[0] = response.raw_output_contents[0][:16]


def _shorten(response: Any) -> None:
    response.raw_output_contents[0] = b"123"


def _unpack(response: Any) -> None:
    del response.raw_output_contents[:]


def _retype(response: Any) -> None:
    response.outputs[0].datatype = "BYTES"


def _other_image(response: Any) -> None:
    response.raw_output_contents[3] = np.array([[1, 0, 0]], np.int32).tobytes()


def _unknown_status(response: Any) -> None:
    response.raw_output_contents[2] = np.full((1, 3, 5), 9, np.int8).tobytes()


def _infinite(response: Any) -> None:
    response.raw_output_contents[1] = np.full((1, 3, 5), np.inf).tobytes()


async def test_client_returns_exactly_what_came(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    predictor.probability_P = [0.1 + 0.2, 1 / 3, 0.0]
    answer = await asker.ask(QUERY, bundle=BUNDLE, timeout_s=2)
    assert answer.probability_P.tolist() == predictor.probability_P
    assert answer.signals_PM.shape == (3, 5)
    sent = predictor.requests[0]
    names = [tensor.name for tensor in sent.inputs]
    assert names == [
        "title",
        "description",
        "images",
        "image_count",
        "behaviour",
        "behaviour_status",
    ]
    assert sent.raw_input_contents[2] == b"\x07\x00\x00\x00\xff\xd8photo"


@pytest.mark.parametrize(
    "spoil",
    [_drop, _widen, _shorten, _unpack, _retype, _other_image, _unknown_status, _infinite],
)
async def test_client_refuses_when_the_answer_is_broken(
    asker: PredictorClient, predictor: FakePredictor, spoil: Callable[[Any], None]
) -> None:
    predictor.spoil = spoil
    with pytest.raises(PredictorError, match="answer"):
        await asker.ask(QUERY, bundle=BUNDLE, timeout_s=2)


@pytest.mark.parametrize("values", [[0.1, 0.2], [0.1, float("nan"), 0.3], [0.1, 0.2, 1.5]])
async def test_client_refuses_when_probabilities_are_none(
    asker: PredictorClient, predictor: FakePredictor, values: list[float]
) -> None:
    predictor.probability_P = values
    with pytest.raises(PredictorError):
        await asker.ask(QUERY, bundle=BUNDLE, timeout_s=2)


async def test_client_times_out_when_the_answer_is_late(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    predictor.delay_s = 5
    with pytest.raises(PredictorTimeout):
        await asker.ask(QUERY, bundle=BUNDLE, timeout_s=0.2)


async def test_client_learns_the_release_again_when_it_changes(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    await asker.ask(QUERY, bundle=BUNDLE, timeout_s=2)
    predictor.release = a_release(bundle="b" * 64, thresholds={})
    with pytest.raises(PredictorError, match="changed its bundle"):
        await asker.ask(QUERY, bundle=BUNDLE, timeout_s=2)
    answer = await asker.ask(QUERY, bundle="b" * 64, timeout_s=2)
    assert answer.release.thresholds == {}


async def test_client_fails_fast_when_nobody_listens() -> None:
    client = PredictorClient("grpc://127.0.0.1:1")
    with pytest.raises(PredictorError, match="UNAVAILABLE"):
        await client.ask(QUERY, bundle=BUNDLE, timeout_s=5)
    assert not await client.is_ready(timeout_s=1)
    await client.close()


async def test_client_tells_when_the_predictor_refuses(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    predictor.error = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(PredictorError, match="INVALID_ARGUMENT: as told"):
        await asker.ask(QUERY, bundle=BUNDLE, timeout_s=2)
