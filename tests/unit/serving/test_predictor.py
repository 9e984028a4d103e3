import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kserve import InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.rest.v2_datamodels import InferenceRequest

from moderation.features import FEATURE_NAMES
from moderation.release import load_release
from serving.openinference import add_input, messages
from serving.predictor.bounds import MAX_ITEMS
from serving.predictor.inputs import parse_items
from serving.predictor.intake import Intake
from serving.predictor.model import TidegateModel
from serving.predictor.queue import BatchQueue
from serving.predictor.threads import ThreadPlan
from tests.unit.serving.fakes import BUNDLE, a_release, as_text
from tests.unit.serving.scorers import FakeScorer, M, P, PreparingThreads

F = len(FEATURE_NAMES)


def _grpc(**tensors: Any) -> InferRequest:
    request = messages.ModelInferRequest(model_name="tidegate")
    for name, value in tensors.items():
        add_input(request, name, value)
    return InferRequest.from_grpc(request)


def _rest(*tensors: tuple[str, str, list[int], list[Any]], **more: Any) -> InferRequest:
    inputs = [{"name": n, "datatype": t, "shape": s, "data": d} for n, t, s, d in tensors]
    body = InferenceRequest.model_validate({"inputs": inputs, **more})
    return InferRequest.from_inference_request(body, "tidegate")


def _full(**changes: Any) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        "title": [b"one", "zwöi".encode()],
        "description": [b"", b"text"],
        "images": [b"\xff1", b"\xff2", b"\xff3"],
        "image_count": np.array([1, 2], np.int32),
        "behaviour": np.arange(2 * F, dtype=np.float32).reshape(2, F),
        "behaviour_status": np.zeros((2, F), np.int8),
    }
    return tensors | changes


def test_items_are_read_when_raw() -> None:
    status = np.zeros((2, F), np.int8)
    status[1, 3] = 1
    items = parse_items(_grpc(**_full(behaviour_status=status)), FEATURE_NAMES)
    assert [item.title for item in items] == ["one", "zwöi"]
    assert [item.images for item in items] == [(b"\xff1",), (b"\xff2", b"\xff3")]
    assert items[1].behaviour is not None
    assert items[1].behaviour[2] == F + 2
    assert items[1].behaviour[3] == 0, "a value that is missing is 0"
    assert items[1].behaviour_status is not None
    assert items[1].behaviour_status[3] == 1


def test_items_are_the_same_when_sent_as_json() -> None:
    rest = _rest(
        ("title", "BYTES", [2], ["one", "zwöi"]),
        ("description", "BYTES", [2], ["", "text"]),
        ("images", "BYTES", [3], [as_text(b"\xff1"), as_text(b"\xff2"), as_text(b"\xff3")]),
        ("image_count", "INT32", [2], [1, 2]),
        ("behaviour", "FP32", [2, F], [[float(n) for n in range(F)], list(range(F, 2 * F))]),
        ("behaviour_status", "INT8", [2, F], [0] * (2 * F)),
    )
    for ours, theirs in zip(
        parse_items(rest, FEATURE_NAMES), parse_items(_grpc(**_full()), FEATURE_NAMES), strict=True
    ):
        assert (ours.title, ours.description, ours.images) == (
            theirs.title,
            theirs.description,
            theirs.images,
        )
        np.testing.assert_array_equal(np.asarray(ours.behaviour), np.asarray(theirs.behaviour))


def test_items_lack_a_modality_when_its_tensors_are_absent() -> None:
    item = parse_items(_grpc(title=[b""]), FEATURE_NAMES)[0]
    assert (item.title, item.description, item.images) == ("", "", ())
    assert np.asarray(item.behaviour_status).tolist() == [1] * F


def _nan() -> np.ndarray[Any, Any]:
    values = np.zeros((2, F), np.float32)
    values[1, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": [b""] * (MAX_ITEMS + 1)}, f'"title" has {MAX_ITEMS + 1} items'),
        ({"title": []}, '"title" has 0 items'),
        ({"title": [b"\xff", b""]}, r'"title"\[0\] is not UTF-8'),
        ({"title": [b"x" * 301, b""]}, r'"title"\[0\] has 301 characters'),
        ({"title": np.zeros(2, np.float32)}, '"title": send BYTES, not FP32'),
        ({"description": [b"x"]}, '"description": send shape'),
        ({"description": [b"x" * 1_000_000, b""]}, "1000000 characters"),
        ({"images": [b"x"]}, r'"images": send shape \[3\]'),
        ({"images": [b"x", b"", b"y"]}, r'"images"\[1\] has 0 bytes'),
        ({"image_count": np.array([-1, 4], np.int32)}, '"image_count": send 0 to 8'),
        ({"image_count": np.array([3], np.int32)}, r'"image_count": send shape \[2\]'),
        ({"image_count": np.zeros(2, np.float32)}, "INT32, not FP32"),
        ({"behaviour": np.zeros((2, F + 1), np.float32)}, rf"shape \[2, {F}\]"),
        ({"behaviour": _nan()}, r'"behaviour"\[1,2\] \(submissions_24h\) is not finite'),
        ({"behaviour_status": np.full((2, F), 3, np.int8)}, "1 .missing"),
        ({"surprise": [b"x"]}, '"surprise" is unknown; known are title'),
    ],
)
def test_request_is_refused_by_tensor_when_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_items(_grpc(**_full(**changes)), FEATURE_NAMES)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ("title", '"title" is missing'),
        ("image_count", '"image_count": send INT32'),
        ("images", r'"images": send shape \[3\]'),
        ("behaviour", '"behaviour": send it'),
        ("behaviour_status", '"behaviour_status": send it'),
    ],
)
def test_request_is_refused_when_half_a_pair_is_absent(dropped: str, message: str) -> None:
    tensors = {name: value for name, value in _full().items() if name != dropped}
    with pytest.raises(InvalidInput, match=message):
        parse_items(_grpc(**tensors), FEATURE_NAMES)


def _broken(change: Callable[[Any], None]) -> InferRequest:
    request = messages.ModelInferRequest(model_name="tidegate")
    for name, value in _full().items():
        add_input(request, name, value)
    change(request)
    return InferRequest.from_grpc(request)


def _set_raw(place: int, raw: bytes) -> Callable[[Any], None]:
    return lambda request: request.raw_input_contents.__setitem__(place, raw)


@pytest.mark.parametrize(
    "change",
    [
        _set_raw(0, b"\xff\xff\xff\xff"),
        _set_raw(0, b"\x01"),
        _set_raw(3, b"123"),
        _set_raw(3, b""),
        _set_raw(4, b"1234"),
        lambda request: request.inputs[0].shape.__setitem__(0, -1),
        lambda request: request.inputs[3].shape.__setitem__(0, 2**60),
        lambda request: request.inputs[0].shape.append(1),
        lambda request: request.inputs.append(request.inputs[0]),
    ],
)
def test_request_is_refused_when_its_bytes_lie(change: Callable[[Any], None]) -> None:
    with pytest.raises(InvalidInput, match="input "):
        parse_items(_broken(change), FEATURE_NAMES)


@pytest.mark.parametrize(
    "tensors",
    [
        [("title", "BYTES", [1], [7])],
        [("title", "BYTES", [1], [None])],
        [("title", "BYTES", [2], ["x"])],
        [("title", "BYTES", [1], [{"a": 1}])],
        [("title", "BYTES", [1], ["x"]), ("image_count", "INT32", [1], [1.5])],
        [("title", "BYTES", [1], ["x"]), ("image_count", "INT32", [1], [True])],
        [("title", "BYTES", [1], ["x"]), ("image_count", "INT32", [1], [2**40])],
        [
            ("title", "BYTES", [1], ["x"]),
            ("images", "BYTES", [1], ["*not base64*"]),
            ("image_count", "INT32", [1], [1]),
        ],
        [
            ("title", "BYTES", [1], ["x"]),
            ("behaviour", "FP32", [1, F], ["1"] * F),
            ("behaviour_status", "INT8", [1, F], [0] * F),
        ],
        [
            ("title", "BYTES", [1], ["x"]),
            ("behaviour", "FP32", [1, F], [1e300] * F),
            ("behaviour_status", "INT8", [1, F], [0] * F),
        ],
    ],
)
def test_request_is_refused_when_json_lies(tensors: list[tuple[str, str, list[int], Any]]) -> None:
    with pytest.raises(InvalidInput, match="input "):
        parse_items(_rest(*tensors), FEATURE_NAMES)


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def model(scorer: FakeScorer) -> TidegateModel:
    rules = load_release(Path("policies/release.yaml")).serving.predictor
    return TidegateModel(
        BatchQueue(scorer, PreparingThreads(scorer.prepare), rules, ThreadPlan(2, 1)),
        a_release(),
        Intake(rules),
    )


def _outputs(response: InferResponse) -> dict[str, Any]:
    return {output.name: output.as_numpy() for output in response.outputs}


async def test_model_answers_when_asked(model: TidegateModel) -> None:
    response = await model.predict(_grpc(title=[b"one", b"three"]))
    outputs = _outputs(response)
    assert list(outputs) == ["probability", "signals", "signal_status", "worst_image"]
    assert outputs["probability"].dtype == np.float64
    assert outputs["probability"].tolist() == [[0.03] * P, [0.05] * P]
    assert outputs["signals"].shape == (2, P, M)
    assert outputs["signals"][0, 0].tolist() == [1, 0, 1, 1, 1], "unmeasured is 0, never NaN"
    assert outputs["signal_status"][0, 0].tolist() == [0, 1, 0, 0, 0]
    assert response.model_version == BUNDLE
    assert response.id


async def test_model_returns_embeddings_when_asked_by_name(model: TidegateModel) -> None:
    wanted = [{"name": "embedding_text"}, {"name": "probability"}]
    title = ("title", "BYTES", [1], ["x"])
    outputs = _outputs(await model.predict(_rest(title, outputs=wanted, id="mine")))
    assert list(outputs) == ["embedding_text", "probability"]
    assert outputs["embedding_text"].dtype == np.float32
    with pytest.raises(InvalidInput, match='"wish" is unknown'):
        await model.predict(_rest(title, outputs=[{"name": "wish"}]))


async def test_model_scores_off_the_event_loop(model: TidegateModel, scorer: FakeScorer) -> None:
    scorer.gate.clear()
    waiting = asyncio.create_task(model.predict(_grpc(title=[b"x"])))
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert not waiting.done()
    scorer.gate.set()
    await waiting
    assert all(name.startswith("score") for name in scorer.threads)


async def test_model_refuses_when_the_scorer_does(model: TidegateModel) -> None:
    with pytest.raises(InvalidInput, match="title: is refused"):
        await model.predict(_grpc(title=[b"refuse me"]))


def test_metadata_describes_every_tensor(model: TidegateModel) -> None:
    inputs = {tensor["name"]: tensor for tensor in model.get_input_types()}
    assert inputs["behaviour"] == {"name": "behaviour", "datatype": "FP32", "shape": [-1, F]}
    outputs = {tensor["name"]: tensor for tensor in model.get_output_types()}
    assert outputs["signals"] == {"name": "signals", "datatype": "FP64", "shape": [-1, P, M]}
    assert {"embedding_image", "embedding_text"} < set(outputs)


@settings(max_examples=200, deadline=None)
@given(
    place=st.integers(0, 5),
    raw=st.binary(max_size=80),
    shape=st.lists(st.integers(-(2**40), 2**40), max_size=3),
    reshape=st.booleans(),
)
def test_request_never_crashes_when_a_tensor_is_random(
    place: int, raw: bytes, shape: list[int], reshape: bool
) -> None:
    def change(request: Any) -> None:
        request.raw_input_contents[place] = raw
        if reshape:
            del request.inputs[place].shape[:]
            request.inputs[place].shape.extend(shape)

    num_items = 2
    with contextlib.suppress(InvalidInput):
        num_items = len(parse_items(_broken(change), FEATURE_NAMES))
    assert num_items == 2, "what is taken is taken whole"
