"""Predictor and gateway as real processes around a real tiny bundle."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from ledger.events import EventKind
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.clock import SystemClock
from moderation.decision import MODEL_UNAVAILABLE
from moderation.features import FEATURE_NAMES
from moderation.policy import load_policies
from moderation.scoring import Scorer, Scores, ScoringItem
from serving.gateway.heartbeat import read_beats
from serving.openinference import (
    MAX_MESSAGE_BYTES,
    RELEASE_METADATA_KEY,
    SERVICE,
    add_input,
    messages,
    read_outputs,
)
from serving.process import ServingProcess, StartFailed, start_gateway, start_predictor
from serving.release import parse_release
from serving.replay import replay_decision
from serving.routing import Route, RoutingTable, write_table
from tests.toy import ToyWorld, toy_world
from tests.unit.serving.fakes import as_text

pytestmark = pytest.mark.slow

NUM_LISTINGS = 500
POLICY_FILE = Path("policies/marketplace.yaml")
SUBMITTER = {"Authorization": "Bearer s3cret"}
ADMIN = {"Authorization": "Bearer adm1n"}


@pytest.fixture(scope="module")
def predictor(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServingProcess]:
    logs = tmp_path_factory.mktemp("logs")
    with start_predictor(
        tiny_bundle.folder, log_folder=logs, num_threads=1, is_unattested=True
    ) as process:
        yield process


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Bundle) -> Scorer:
    return Scorer.load(tiny_bundle.folder)


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return toy_world(NUM_LISTINGS, seed=23)


def _call(url: str, name: str, request: Any, response: Any) -> tuple[Any, Any]:
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    with grpc.insecure_channel(url.removeprefix("grpc://"), options) as channel:
        call = channel.unary_unary(
            f"{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        answer, state = call.with_call(request, timeout=60)
    return answer, dict(state.trailing_metadata())


def _items(world: ToyWorld) -> list[ScoringItem]:
    num_features = len(FEATURE_NAMES)
    items = []
    for row in world.rows:
        listing, behaviour_F = row.submission.listing, row.behaviour_F
        known_F = np.zeros(num_features, bool) if behaviour_F is None else np.isfinite(behaviour_F)
        values_F = np.zeros(num_features, np.float32) if behaviour_F is None else behaviour_F
        items.append(
            ScoringItem(
                listing.title,
                listing.description,
                world.images(row),
                np.where(known_F, values_F, 0).astype(np.float32),
                np.where(known_F, 0, 1).astype(np.int8),
            )
        )
    return items


def _infer(url: str, items: list[ScoringItem]) -> dict[str, Any]:
    request = messages.ModelInferRequest(model_name="tidegate")
    add_input(request, "title", [item.title.encode() for item in items])
    add_input(request, "description", [item.description.encode() for item in items])
    images = [image for item in items for image in item.images if isinstance(image, bytes)]
    add_input(request, "images", images)
    add_input(request, "image_count", np.array([len(item.images) for item in items], np.int32))
    add_input(request, "behaviour", np.stack([np.asarray(item.behaviour) for item in items]))
    status = np.stack([np.asarray(item.behaviour_status) for item in items])
    add_input(request, "behaviour_status", status)
    return read_outputs(_call(url, "ModelInfer", request, messages.ModelInferResponse)[0])


def _expected(scores: Scores) -> dict[str, Any]:
    return {
        "probability": scores.probability_NP,
        "signals": scores.signals_NPM,
        "signal_status": scores.signal_status_NPM,
        "worst_image": scores.worst_image_NP,
    }


def test_predictor_answers_as_the_scorer_when_sent_500(
    predictor: ServingProcess, scorer: Scorer, world: ToyWorld
) -> None:
    items = _items(world)
    for begin in range(0, NUM_LISTINGS, 50):
        batch = items[begin : begin + 50]
        answer = _infer(predictor.url, batch)
        for name, expected in _expected(scorer.score(batch)).items():
            np.testing.assert_allclose(answer[name], expected, rtol=0, atol=1e-6, err_msg=name)


def test_predictor_answers_the_same_over_rest(predictor: ServingProcess, world: ToyWorld) -> None:
    items = _items(world)[:8]
    raw = _infer(predictor.url, items)
    images = [image for item in items for image in item.images if isinstance(image, bytes)]
    tensors: list[tuple[str, str, list[int], list[Any]]] = [
        ("title", "BYTES", [8], [item.title for item in items]),
        ("description", "BYTES", [8], [item.description for item in items]),
        ("images", "BYTES", [len(images)], [as_text(image) for image in images]),
        ("image_count", "INT32", [8], [len(item.images) for item in items]),
        ("behaviour", "FP32", [8, 16], [np.asarray(item.behaviour).tolist() for item in items]),
        (
            "behaviour_status",
            "INT8",
            [8, 16],
            [np.asarray(i.behaviour_status).tolist() for i in items],
        ),
    ]
    body = {
        "id": "mine",
        "inputs": [
            dict(zip(("name", "datatype", "shape", "data"), t, strict=True)) for t in tensors
        ],
    }
    response = httpx.post(f"{predictor.http_url}/v2/models/tidegate/infer", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["id"] == "mine"
    for output in answer["outputs"]:
        values = np.array(output["data"]).reshape(output["shape"])
        expected = raw[output["name"]]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6, err_msg=output["name"])


def test_metadata_carries_the_release_over_both(predictor: ServingProcess, scorer: Scorer) -> None:
    described = httpx.get(f"{predictor.http_url}/v2/models/tidegate").json()
    request = messages.ModelMetadataRequest(name="tidegate")
    answer, trailers = _call(
        predictor.url, "ModelMetadata", request, messages.ModelMetadataResponse
    )
    release = parse_release(trailers[RELEASE_METADATA_KEY])
    assert release.model_dump(mode="json") == described["parameters"]
    assert (release.bundle, release.policies) == (scorer.digest, scorer.policies)
    assert release.features == FEATURE_NAMES
    assert release.thresholds == scorer.thresholds
    assert list(answer.versions) == described["versions"] == [scorer.digest]
    assert [t.name for t in answer.inputs] == [t["name"] for t in described["inputs"]]


def test_predictor_refuses_by_tensor_over_both(predictor: ServingProcess) -> None:
    tensor = {"name": "title", "datatype": "BYTES", "shape": [1], "data": ["x" * 301]}
    url = f"{predictor.http_url}/v2/models/tidegate/infer"
    response = httpx.post(url, json={"inputs": [tensor]})
    assert (response.status_code, "301 characters" in response.json()["error"]) == (400, True)
    request = messages.ModelInferRequest(model_name="tidegate")
    add_input(request, "description", [b""])
    with pytest.raises(grpc.RpcError) as caught:
        _call(predictor.url, "ModelInfer", request, messages.ModelInferResponse)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert '"title" is missing' in caught.value.details()


def test_predictor_takes_eight_large_images(predictor: ServingProcess) -> None:
    blobs = [bytes([n]) * (10 * 2**20) for n in range(8)]
    item = ScoringItem("x", "", blobs, np.zeros(16, np.float32), np.ones(16, np.int8))
    status = _infer(predictor.url, [item])["signal_status"]
    assert set(status[0, :, 1].tolist()) == {2}, "none of them decodes: an error, not a guess"


def test_predictor_gives_embeddings_and_metrics(predictor: ServingProcess) -> None:
    tensor = {"name": "title", "datatype": "BYTES", "shape": [1], "data": ["blue lamp"]}
    body = {"inputs": [tensor], "outputs": [{"name": "embedding_text"}]}
    response = httpx.post(f"{predictor.http_url}/v2/models/tidegate/infer", json=body)
    outputs = response.json()["outputs"]
    assert [output["name"] for output in outputs] == ["embedding_text"]
    assert any(outputs[0]["data"])
    metrics = httpx.get(f"{predictor.http_url}/metrics").text
    assert 'tidegate_stage_seconds_count{stage="predictor.score"}' in metrics
    assert 'tidegate_predictor_requests_total{status="ok"}' in metrics


def test_predictor_process_never_imports_torch(tiny_bundle: Bundle) -> None:
    program = (
        "import sys, serving.predictor.server, serving.predictor.__main__ as main\n"
        f"sys.argv = ['predictor', '--unattested', '--bundle', {str(tiny_bundle.folder)!r}]\n"
        "main._load(main._parse())\n"
        "heavy = {'torch', 'lightning', 'transformers', 'mlflow', 'kfp'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_start_fails_with_the_reason_when_altered(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "ensemble.json").write_text("{}")
    with (
        pytest.raises(StartFailed, match=r"ensemble\.json"),
        start_predictor(bundle_copy, log_folder=tmp_path),
    ):
        pytest.fail("an altered bundle must not be served")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def _table(url: str, bundle: str, revision: int = 1) -> RoutingTable:
    releases = {bundle: Route(url=url, weight=1)}
    return RoutingTable(revision=revision, champion=bundle, releases=releases)


def _route(home: Path, table: RoutingTable) -> None:
    """Write a routing table and wait until the gateway's heartbeat says that it follows it."""
    write_table(home / "routing.json", table)
    for _ in range(100):
        beats = read_beats(home / "gateways", SystemClock().now(), stale_s=5.0)
        if [one.beat.revision for one in beats] == [table.revision]:
            return
        time.sleep(0.1)
    pytest.fail(f"no heartbeat of revision {table.revision}: {beats}")


def _body(world: ToyWorld, number: int) -> dict[str, Any]:
    row = world.rows[number]
    listing = row.submission.listing.model_dump(exclude_none=True)
    return {"listing": listing, "images": [as_text(image) for image in world.images(row)]}


def test_decisions_replay_when_taken_by_the_gateway(
    predictor: ServingProcess, scorer: Scorer, world: ToyWorld, home: Path
) -> None:
    routing = home / "routing.json"
    write_table(routing, _table(predictor.url, scorer.digest))
    environment = {
        "TIDEGATE__HOME": str(home),
        "TIDEGATE__GATEWAY_TOKENS": "shop:submitter:s3cret,root:admin:adm1n",
    }
    policies, store = load_policies(POLICY_FILE), ContentStore(home / "content")
    with (
        start_gateway(
            routing=routing, log_folder=home / "logs", environment=environment
        ) as gateway,
        httpx.Client(base_url=gateway.url, headers=SUBMITTER, timeout=30) as client,
    ):
        answers = [client.post("/v1/decisions", json=_body(world, n)) for n in range(24)]
        assert {answer.status_code for answer in answers} == {200}
        ledger = SqliteLedger(home / "ledger.sqlite")
        for trace_id in (answer.json()["trace_id"] for answer in answers):
            report = replay_decision(
                trace_id, ledger, store=store, scorer=scorer, policies=policies
            )
            assert (report.is_exact, report.is_close, report.crossings) == (True, True, ())
            assert report.release == scorer.digest
        assert {answer.json()["tier"] for answer in answers} > {"allow"}, "not all is allowed"
        seen = client.get(f"/v1/decisions/{answers[0].json()['trace_id']}", headers=ADMIN).json()
        assert seen["evidence"]["versions"]["bundle"] == scorer.digest

        _route(home, _table("grpc://127.0.0.1:1", scorer.digest, revision=2))
        degraded = client.post("/v1/decisions", json=_body(world, 30)).json()
        assert [reason["code"] for reason in degraded["reasons"]] == [MODEL_UNAVAILABLE]
        _route(home, _table(predictor.url, scorer.digest, revision=3))
        restored = client.post("/v1/decisions", json=_body(world, 31)).json()
        assert MODEL_UNAVAILABLE not in {reason["code"] for reason in restored["reasons"]}
        report = replay_decision(
            degraded["trace_id"], ledger, store=store, scorer=None, policies=policies
        )
        assert (report.is_exact, report.max_error) == (True, None)
        decided = [s.event for s in ledger.read([EventKind.DECISION])]
        assert len(decided) == 26
        pid = gateway.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
