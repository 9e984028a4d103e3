"""A prefilter on its way from predictor to gateway: the bytes that the release names, or an error."""

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from kserve import InferRequest
from kserve.errors import InvalidInput

from serving.client import PredictorClient
from serving.errors import PredictorError
from serving.openinference import PREFILTER_MODEL_NAME, add_input, messages, pack_bytes
from serving.predictor.prefilter import PrefilterModel
from tests.prefiltered import prefilter
from tests.unit.serving.fakes import BUNDLE, FakePredictor, a_release

DATA = b'{"prefilter": "as it was fitted"}'


@pytest.fixture
async def asker(predictor: FakePredictor) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(predictor.url)
    yield client
    await client.close()


def _answering(
    *elements: bytes, name: str = "prefilter", kind: str = "BYTES"
) -> Callable[[Any], None]:
    def spoil(response: Any) -> None:
        del response.outputs[:], response.raw_output_contents[:]
        response.outputs.add(name=name, datatype=kind, shape=[1])
        response.raw_output_contents.append(pack_bytes(elements))

    return spoil


def _serve(predictor: FakePredictor, spoil: Callable[[Any], None]) -> None:
    predictor.release = a_release(prefilter=hashlib.sha256(DATA).hexdigest())
    predictor.spoil = spoil


async def test_the_bytes_that_the_release_names_come(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    _serve(predictor, _answering(DATA))
    assert await asker.prefilter(bundle=BUNDLE, timeout_s=2) == DATA
    assert predictor.requests[0].model_name == PREFILTER_MODEL_NAME


async def test_a_release_without_one_is_not_asked(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    assert await asker.prefilter(bundle=BUNDLE, timeout_s=2) is None
    assert not predictor.requests


@pytest.mark.parametrize(
    "spoil",
    [
        _answering(DATA + b" "),
        _answering(DATA, DATA),
        _answering(),
        _answering(DATA, name="other"),
        _answering(DATA, kind="FP64"),
        lambda response: None,
    ],
)
async def test_other_bytes_are_refused(
    asker: PredictorClient, predictor: FakePredictor, spoil: Callable[[Any], None]
) -> None:
    _serve(predictor, spoil)
    with pytest.raises(PredictorError):
        await asker.prefilter(bundle=BUNDLE, timeout_s=2)


async def test_another_release_is_refused(asker: PredictorClient, predictor: FakePredictor) -> None:
    _serve(predictor, _answering(DATA))
    with pytest.raises(PredictorError, match="it serves"):
        await asker.prefilter(bundle="c" * 64, timeout_s=2)


async def test_a_predictor_that_fails_is_an_error(
    asker: PredictorClient, predictor: FakePredictor
) -> None:
    _serve(predictor, _answering(DATA))
    predictor.error = grpc.StatusCode.NOT_FOUND
    with pytest.raises(PredictorError, match="NOT_FOUND"):
        await asker.prefilter(bundle=BUNDLE, timeout_s=2)


def _request(*bundles: bytes, name: str = "bundle") -> InferRequest:
    request = messages.ModelInferRequest(model_name=PREFILTER_MODEL_NAME)
    add_input(request, name, list(bundles))
    return InferRequest.from_grpc(request)


async def test_the_model_hands_out_what_was_fitted() -> None:
    found = prefilter()
    response = await PrefilterModel(found, BUNDLE).predict(_request(BUNDLE.encode()))
    (output,) = response.outputs
    assert output.as_numpy().tolist() == [found.to_bytes()]
    assert response.model_version == BUNDLE


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: _request(b"c" * 64),
        lambda: _request(),
        lambda: _request(BUNDLE.encode(), BUNDLE.encode()),
        lambda: _request(BUNDLE.encode(), name="title"),
        lambda: _request(b"\xff"),
    ],
)
async def test_a_request_for_another_bundle_is_refused(
    request_of: Callable[[], InferRequest],
) -> None:
    model = PrefilterModel(prefilter(), BUNDLE)
    with pytest.raises(InvalidInput, match="bundle"):
        await model.predict(request_of())


def test_the_model_describes_its_tensors() -> None:
    model = PrefilterModel(prefilter(), BUNDLE)
    assert [one["name"] for one in model.get_input_types()] == ["bundle"]
    assert np.array([one["shape"] for one in model.get_output_types()]).tolist() == [[1]]
