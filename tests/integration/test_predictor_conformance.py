"""The Open Inference Protocol (V2) over REST and gRPC, against a predictor process."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from moderation.bundle import Bundle
from moderation.scoring import Scorer
from serving.openinference import MODEL_NAME, add_input, messages, pack_bytes, read_outputs
from serving.process import ServingProcess, start_predictor
from tests.toy import toy_image
from tests.v2_calls import INFER, channel, grpc_request, json_body, method

pytestmark = pytest.mark.slow

PHOTO = toy_image(np.random.default_rng(3), (200, 30, 30))
OUTPUTS = ["probability", "signals", "signal_status", "worst_image"]


@pytest.fixture(scope="module")
def predictor(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServingProcess]:
    logs = tmp_path_factory.mktemp("logs")
    with start_predictor(
        tiny_bundle.folder, log_folder=logs, num_threads=1, is_unattested=True
    ) as process:
        yield process


@pytest.fixture
def rest(predictor: ServingProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=predictor.http_url, timeout=30, trust_env=False) as client:
        yield client


async def _grpc(process: ServingProcess, name: str, request: Any) -> Any:
    async with channel(process) as opened:
        return await method(opened, name)(request, timeout=30)


def test_health_and_metadata_answer_over_rest(rest: httpx.Client, tiny_bundle: Bundle) -> None:
    assert rest.get("/v2/health/live").json() == {"live": True}
    assert rest.get("/v2/health/ready").json() == {"ready": True}
    ready = rest.get(f"/v2/models/{MODEL_NAME}/ready").json()
    assert ready == {"name": MODEL_NAME, "ready": True}
    assert {"name", "version", "extensions"} <= set(rest.get("/v2").json())
    described = rest.get(f"/v2/models/{MODEL_NAME}").json()
    assert described["versions"] == [tiny_bundle.digest]
    assert [t["name"] for t in described["outputs"]][:4] == OUTPUTS


async def test_health_and_metadata_answer_over_grpc(predictor: ServingProcess) -> None:
    assert (await _grpc(predictor, "ServerLive", messages.ServerLiveRequest())).live
    assert (await _grpc(predictor, "ServerReady", messages.ServerReadyRequest())).ready
    request = messages.ModelReadyRequest(name=MODEL_NAME)
    assert (await _grpc(predictor, "ModelReady", request)).ready
    assert (await _grpc(predictor, "ServerMetadata", messages.ServerMetadataRequest())).name
    request = messages.ModelMetadataRequest(name=MODEL_NAME)
    described = await _grpc(predictor, "ModelMetadata", request)
    assert [tensor.name for tensor in described.outputs][:4] == OUTPUTS


async def test_the_model_cannot_be_unloaded(rest: httpx.Client, predictor: ServingProcess) -> None:
    for path in (
        "index",
        "models/tidegate/unload",
        "models/tidegate/load",
        "models/prefilter/unload",
    ):
        answer = rest.post(f"/v2/repository/{path}")
        assert (answer.status_code, "serves one bundle" in answer.json()["error"]) == (404, True)
    for name in ("Unload", "Load"):
        request = getattr(messages, f"RepositoryModel{name}Request")(model_name=MODEL_NAME)
        with pytest.raises(grpc.RpcError) as caught:
            await _grpc(predictor, f"RepositoryModel{name}", request)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "serves one bundle" in caught.value.details()
    assert rest.get("/v2/health/ready").json() == {"ready": True}
    assert rest.post(INFER, json=json_body(["lamp"])).status_code == 200
    assert (await _grpc(predictor, "ModelInfer", grpc_request(["lamp"]))).model_name == MODEL_NAME
    told = await _grpc(predictor, "ServerMetadata", messages.ServerMetadataRequest())
    assert rest.get("/v2").json()["extensions"] == list(told.extensions) == ["binary_tensor_data"]


def test_v1_is_not_served_and_no_other_route_reads_a_large_body(rest: httpx.Client) -> None:
    first = rest.post(f"/v1/models/{MODEL_NAME}:predict", json={"instances": [1]})
    assert (first.status_code, "use /v2" in first.json()["error"]) == (404, True)

    def stream() -> Iterator[bytes]:
        yield from [b"x" * 2**16] * 17

    for path in ("/v2/models/prefilter/infer", "/v1/models/x:explain", "/docs"):
        for content in (b"x" * (2**20 + 1), stream()):
            answer = rest.post(path, content=content)
            assert (answer.status_code, "beyond 1048576" in answer.json()["error"]) == (413, True)
    assert rest.get("/v2/health/ready").status_code == 200


async def test_id_is_echoed_or_made_up(rest: httpx.Client, predictor: ServingProcess) -> None:
    assert rest.post(INFER, json=json_body(["lamp"], id="mine")).json()["id"] == "mine"
    assert rest.post(INFER, json=json_body(["lamp"])).json()["id"]
    request = grpc_request(["lamp"])
    request.id = "mine"
    assert (await _grpc(predictor, "ModelInfer", request)).id == "mine"


@pytest.mark.parametrize("images", [None, [PHOTO], [PHOTO] * 8], ids=["none", "one", "eight"])
@pytest.mark.parametrize("num", [1, 64])
async def test_both_ways_answer_alike(
    num: int, images: list[bytes] | None, rest: httpx.Client, predictor: ServingProcess
) -> None:
    titles = [f"lamp {n}" for n in range(num)]
    answer = rest.post(INFER, json=json_body(titles, images)).json()
    assert (answer["model_name"], [o["name"] for o in answer["outputs"]]) == (MODEL_NAME, OUTPUTS)
    raw = read_outputs(await _grpc(predictor, "ModelInfer", grpc_request(titles, images)))
    for output in answer["outputs"]:
        assert output["shape"][0] == num
        values = np.array(output["data"]).reshape(output["shape"])
        np.testing.assert_allclose(values, raw[output["name"]], rtol=0, atol=1e-6)


def test_images_come_raw_in_the_binary_extension(
    rest: httpx.Client, predictor: ServingProcess
) -> None:
    body = json_body(["lamp"], [PHOTO], parameters={"binary_data_output": True})
    raw = pack_bytes([PHOTO]) + struct.pack("<i", 1)
    for tensor, size in ((body["inputs"][1], len(raw) - 4), (body["inputs"][2], 4)):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": size}
    header = json.dumps(body).encode()
    headers = {"inference-header-content-length": str(len(header))}
    response = rest.post(INFER, content=header + raw, headers=headers)
    assert response.status_code == 200, response.text
    length = int(response.headers["inference-header-content-length"])
    answer = json.loads(response.content[:length])
    first = answer["outputs"][0]
    values = np.frombuffer(response.content, np.float64, int(np.prod(first["shape"])), length)
    plain = rest.post(INFER, json=json_body(["lamp"], [PHOTO])).json()["outputs"][0]["data"]
    np.testing.assert_allclose(values, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("default", [None, True, False])
def test_each_output_says_how_it_comes(default: bool | None, rest: httpx.Client) -> None:
    wanted: list[dict[str, Any]] = [
        {"name": "probability", "parameters": {"binary_data": True}},
        {"name": "worst_image", "parameters": {"binary_data": False}},
        {"name": "signals"},
    ]
    parameters = {} if default is None else {"binary_data_output": default}
    response = rest.post(INFER, json=json_body(["lamp"], outputs=wanted, parameters=parameters))
    length = int(response.headers["inference-header-content-length"])
    first, second, third = json.loads(response.content[:length])["outputs"]
    assert ("data" in second, "data" in third) == (True, not default)
    plain = rest.post(INFER, json=json_body(["lamp"])).json()["outputs"]
    probability = np.frombuffer(response.content, np.float64, len(plain[0]["data"]), length)
    np.testing.assert_allclose(probability, plain[0]["data"], rtol=0, atol=1e-6)
    sizes = [one["parameters"]["binary_data_size"] for one in (first, third) if "data" not in one]
    assert sum(sizes) == len(response.content) - length
    wanted[0]["parameters"]["binary_data"] = "x"
    refused = rest.post(INFER, json=json_body(["lamp"], outputs=wanted))
    assert (refused.status_code, "true or false" in refused.json()["error"]) == (400, True)


def test_version_is_served_or_not_found(rest: httpx.Client, tiny_bundle: Bundle) -> None:
    versions = INFER.replace("/infer", "/versions/{}/infer")
    body = json_body(["lamp"])
    assert rest.post(versions.format(tiny_bundle.digest), json=body).status_code == 200
    assert rest.post(versions.format("other"), json=body).status_code == 404
    assert rest.post("/v2/models/other/infer", json=body).status_code == 404
    described = f"/v2/models/{MODEL_NAME}/versions/"
    assert (
        rest.get(described + tiny_bundle.digest).json()
        == rest.get(f"/v2/models/{MODEL_NAME}").json()
    )
    ready = rest.get(f"{described}{tiny_bundle.digest}/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    for path in ("other", "other/ready"):
        assert rest.get(described + path).status_code == 404


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"{", {}, "no JSON"),
        (b"[]", {}, "the body"),
        (b"{}", {}, "inputs"),
        (b'{"inputs": [{"name": "title"}]}', {}, "inputs.0"),
        (b"{}", {"inference-header-content-length": "x"}, "length of the JSON"),
        (b"{}", {"inference-header-content-length": "99"}, "length of the JSON"),
        (b"{}", {"inference-header-content-length": "1" * 5_000}, "length of the JSON"),
        (b"{}rest", {"inference-header-content-length": "2"}, "4 bytes follow"),
        (
            b'{"inputs": [{"parameters": {"binary_data_size": 9}}]}',
            {},
            "binary_data_size is 9, 0 bytes follow",
        ),
    ],
)
def test_broken_body_is_refused_with_the_reason(
    content: bytes, headers: dict[str, str], message: str, rest: httpx.Client
) -> None:
    response = rest.post(INFER, content=content, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("parameters", "headers", "message"),
    [
        ({"priority": "first"}, {}, "send one of upload, rescan, backfill"),
        ({"priority": 0}, {}, "send one of upload, rescan, backfill"),
        ({"deadline_ms": "soon"}, {}, "send milliseconds"),
        ({"deadline_ms": True}, {}, "send milliseconds"),
        ({}, {"x-deadline-ms": "-1"}, "send milliseconds"),
    ],
)
def test_terms_are_refused_with_the_reason(
    parameters: dict[str, Any], headers: dict[str, str], message: str, rest: httpx.Client
) -> None:
    body = json_body(["lamp"], parameters=parameters)
    response = rest.post(INFER, json=body, headers=headers)
    assert (response.status_code, message in response.json()["error"]) == (400, True)


async def test_errors_have_their_status_over_grpc(predictor: ServingProcess) -> None:
    other = grpc_request(["lamp"])
    other.model_version = "other"
    untitled = messages.ModelInferRequest(model_name=MODEL_NAME)
    add_input(untitled, "description", [b""])
    expected = {
        "INVALID_ARGUMENT": [untitled, grpc_request(["lamp"], priority="first")],
        "NOT_FOUND": [other, messages.ModelInferRequest(model_name="other")],
        "DEADLINE_EXCEEDED": [grpc_request(["lamp"], deadline_ms=0)],
    }
    for code, requests in expected.items():
        for request in requests:
            with pytest.raises(grpc.RpcError) as caught:
                await _grpc(predictor, "ModelInfer", request)
            assert caught.value.code().name == code, caught.value.details()


async def test_far_too_many_elements_are_refused_by_tensor_over_both(
    rest: httpx.Client, predictor: ServingProcess
) -> None:
    body = json_body(["lamp"])
    body["inputs"].append(
        {"name": "image_count", "datatype": "INT32", "shape": [1], "data": [1] * 65}
    )
    answer = rest.post(INFER, json=body)
    assert (answer.status_code, '"image_count" has 65' in answer.json()["error"]) == (400, True)
    request = messages.ModelInferRequest(model_name=MODEL_NAME)
    tensor = request.inputs.add(name="image_count", datatype="INT32", shape=[1])
    for num, reason in ((65, '"image_count" has 65 elements'), (3 * 2**20, "more than 20000")):
        tensor.contents.int_contents.extend([1] * (num - len(tensor.contents.int_contents)))
        with pytest.raises(grpc.RpcError) as caught:
            await _grpc(predictor, "ModelInfer", request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in caught.value.details()


async def test_what_is_no_message_is_refused_over_grpc(predictor: ServingProcess) -> None:
    async with channel(predictor) as opened:
        call = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for broken in (b"\xff", b"\x0b" * 30_000):
            with pytest.raises(grpc.RpcError) as caught:
                await call(broken, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_deadline_that_has_passed_is_504(rest: httpx.Client) -> None:
    response = rest.post(INFER, json=json_body(["lamp"]), headers={"x-deadline-ms": "0"})
    assert (response.status_code, "are left" in response.json()["error"]) == (504, True)


@pytest.mark.parametrize("priority", ["upload", "rescan", "backfill"])
async def test_every_priority_is_answered(
    priority: str, rest: httpx.Client, predictor: ServingProcess
) -> None:
    parameters = {"priority": priority, "deadline_ms": 20_000}
    assert rest.post(INFER, json=json_body(["lamp"], parameters=parameters)).status_code == 200
    request = grpc_request(["lamp"], priority=priority, deadline_ms=20_000)
    assert (await _grpc(predictor, "ModelInfer", request)).model_name == MODEL_NAME


def test_scores_depend_on_no_batch_mate(tiny_bundle: Bundle) -> None:
    from moderation.scoring import ScoringItem

    scorer = Scorer.load(tiny_bundle.folder)
    rng = np.random.default_rng(7)
    items = [
        ScoringItem(f"red lamp {'x' * n}", "", [PHOTO] * (n % 4), None, None) for n in range(24)
    ]
    alone = scorer.score(items)
    prepared = [scorer.prepare(item) for item in items]
    for size in (1, 2, 5, 24):
        rows = rng.permutation(24)[:size]
        batch = scorer.score_prepared([prepared[row] for row in rows])
        for name in ("probability_NP", "signals_NPM", "signal_status_NPM", "worst_image_NP"):
            expected = getattr(alone, name)[rows]
            np.testing.assert_allclose(getattr(batch, name), expected, rtol=0, atol=1e-6)
