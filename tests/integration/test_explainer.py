"""A real explainer behind a real gateway: a reviewer gets the reasons, a submitter none, and its death stops nobody."""

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from moderation.bundle import Bundle
from moderation.explanation import Explanation
from serving.process import ServingProcess, start_explainer, start_gateway, start_predictor
from serving.routing import Route, RoutingTable, write_table
from tests.unit.serving.fakes import a_photo, an_upload, as_text
from tidegate.explaining import fetch, page, show

pytestmark = pytest.mark.slow

SUBMITTER = {"Authorization": "Bearer s3cret"}
REVIEWER = {"Authorization": "Bearer r3view"}


@dataclass(frozen=True)
class Running:
    """The three processes that an explanation takes."""

    gateway: ServingProcess
    explainer: ServingProcess


@pytest.fixture(scope="module")
def running(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    logs, routing = home / "logs", home / "routing.json"
    environment = {
        "TIDEGATE__HOME": str(home),
        "TIDEGATE__GATEWAY_TOKENS": "shop:submitter:s3cret,ana:reviewer:r3view",
    }
    with (
        start_explainer(tiny_bundle.folder, log_folder=logs) as explainer,
        start_predictor(
            tiny_bundle.folder, log_folder=logs, num_threads=1, is_unattested=True
        ) as predictor,
    ):
        releases = {tiny_bundle.digest: Route(url=predictor.url, weight=1.0)}
        table = RoutingTable(revision=1, champion=tiny_bundle.digest, releases=releases)
        write_table(routing, table)
        environment["TIDEGATE__EXPLAINER_URL"] = explainer.http_url
        with start_gateway(routing=routing, log_folder=logs, environment=environment) as gateway:
            yield Running(gateway, explainer)


def _upload(gateway: ServingProcess) -> httpx.Response:
    listing = {"listing_id": "l1", "seller_id": "s1", "title": "old pistol", "description": "cash"}
    body = an_upload(listing=listing, images=[as_text(a_photo())])
    url = f"{gateway.http_url}/v1/decisions"
    return httpx.post(url, json=body, headers=SUBMITTER, timeout=30, trust_env=False)


def _ask(gateway: ServingProcess, trace_id: str, headers: dict[str, str]) -> httpx.Response:
    url = f"{gateway.http_url}/v1/decisions/{trace_id}/explanation"
    return httpx.get(url, headers=headers, timeout=90, trust_env=False)


def test_v1_and_v2_explain_alike_and_refuse_what_is_wrong(
    running: Running, tiny_bundle: Bundle
) -> None:
    base = running.explainer.http_url
    one = {"policy": "weapons", "title": "old pistol", "images": [as_text(a_photo())]}
    with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
        second = client.post("/v2/models/tidegate/explain", json=one)
        assert second.status_code == 200, second.text
        first = client.post("/v1/models/tidegate:explain", json={"instances": [one]})
        assert first.json() == {"predictions": [second.json()]}
        found = Explanation.model_validate(second.json())
        assert found.bundle == tiny_bundle.digest
        for wrong in (
            {},
            one | {"policy": "astrology"},
            one | {"images": ["not base64"]},
            one | {"colour": "red"},
            one | {"behaviour": {"height": 1.0}},
        ):
            answer = client.post("/v2/models/tidegate/explain", json=wrong)
            assert answer.status_code == 400, answer.text
        assert client.post("/v1/models/tidegate:explain", json={}).status_code == 400
        assert client.post("/v2/models/tidegate/explain", content=b"{").status_code == 400


def test_a_reviewer_gets_the_reasons_and_a_submitter_none(
    running: Running, tiny_bundle: Bundle
) -> None:
    answer = _upload(running.gateway)
    assert set(answer.json()) == {"decision_id", "trace_id", "submission_id", "tier", "reasons"}
    trace_id = answer.json()["trace_id"]
    refused = _ask(running.gateway, trace_id, SUBMITTER)
    assert refused.status_code == 403
    assert "pistol" not in refused.text
    given = _ask(running.gateway, trace_id, REVIEWER)
    assert given.status_code == 200, given.text
    assert given.headers["cache-control"] == "no-store"
    found = Explanation.model_validate(given.json())
    assert (found.bundle, len(found.heat)) == (tiny_bundle.digest, 1)
    evidence_url = f"{running.gateway.http_url}/v1/decisions/{trace_id}"
    seen = httpx.get(evidence_url, headers=REVIEWER, trust_env=False).json()["evidence"]
    [score] = [one for one in seen["attempts"][0]["scores"] if one["policy"] == found.policy]
    assert _probability(found.log_odds) == pytest.approx(score["probability"], abs=1e-9)
    assert score["probability"] == max(one["probability"] for one in seen["attempts"][0]["scores"])


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def test_the_command_shows_and_writes_it(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace_id = _upload(running.gateway).json()["trace_id"]
    found = fetch(running.gateway.http_url, "r3view", trace_id, "weapons")
    show(found)
    said = capsys.readouterr().out
    assert "pistol" in said
    assert "title 4-10" in said
    text = page(found, trace_id)
    assert "data:image/png;base64," in text
    assert "<script" not in text


def test_uploads_go_on_when_the_explainer_dies(running: Running) -> None:
    trace_id = _upload(running.gateway).json()["trace_id"]
    os.kill(running.explainer.pid, signal.SIGKILL)
    dead = _ask(running.gateway, trace_id, REVIEWER)
    assert (dead.status_code, dead.json()["error"]) == (503, "ExplainerUnavailable")
    assert _upload(running.gateway).status_code == 200
