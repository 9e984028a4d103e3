"""One trace over two real processes, the predictor's spans below the gateway's; a dead collector stops nobody."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from moderation.bundle import Bundle
from serving.process import ServingProcess, start_gateway, start_predictor
from serving.routing import Route, RoutingTable, write_table
from tests.otlp_collector import Collector, Seen
from tests.unit.serving.fakes import an_upload

pytestmark = pytest.mark.slow

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GATEWAY = (
    "gateway.parse",
    "gateway.keep_inputs",
    "gateway.behaviour",
    "gateway.predictor",
    "gateway.record",
)
PREDICTOR = ("predictor.request", "predictor.decode", "predictor.score", "predictor.batch")
ONE_EACH = (*GATEWAY, "gateway.upload", *PREDICTOR)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def gateway(tiny_bundle: Bundle, tmp_path: Path, collector: Collector) -> Iterator[ServingProcess]:
    environment = {
        "TIDEGATE__HOME": str(tmp_path / "home"),
        "TIDEGATE__GATEWAY_TOKENS": "shop:submitter:s3cret",
        "TIDEGATE__OTLP_ENDPOINT": collector.url,
    }
    logs, routing = tmp_path / "logs", tmp_path / "routing.json"
    with start_predictor(
        tiny_bundle.folder,
        log_folder=logs,
        num_threads=1,
        environment=environment,
        is_unattested=True,
    ) as predictor:
        releases = {tiny_bundle.digest: Route(url=predictor.url, weight=1.0)}
        table = RoutingTable(revision=1, champion=tiny_bundle.digest, releases=releases)
        write_table(routing, table)
        with start_gateway(routing=routing, log_folder=logs, environment=environment) as gateway:
            yield gateway


def _upload(gateway: ServingProcess, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{gateway.http_url}/v1/decisions",
        json=an_upload(),
        headers={"Authorization": "Bearer s3cret", **headers},
        timeout=30,
        trust_env=False,
    )


def _lost(gateway: ServingProcess) -> float:
    text = httpx.get(f"{gateway.http_url}/metrics", trust_env=False).text
    found = [line for line in text.splitlines() if 'spans_total{outcome="lost"}' in line]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_one_trace_holds_both_processes_and_outlives_its_collector(
    gateway: ServingProcess, collector: Collector
) -> None:
    first = _upload(gateway, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert first.json()["trace_id"] == TRACE

    def is_whole(spans: list[Seen]) -> bool:
        return {span.name for span in spans if span.trace_id == TRACE}.issuperset(ONE_EACH)

    spans = [span for span in collector.wait_for(is_whole) if span.trace_id == TRACE]
    by_name = {span.name: span for span in spans}
    upload = by_name["gateway.upload"]
    assert upload.parent_id == PARENT
    assert first.headers["traceparent"] == f"00-{TRACE}-{upload.span_id}-01"
    assert {by_name[name].parent_id for name in GATEWAY} == {upload.span_id}
    asked = by_name["predictor.request"]
    assert (asked.service, asked.parent_id) == (
        "tidegate-predictor",
        by_name["gateway.predictor"].span_id,
    )
    for name in ("predictor.decode", "predictor.score"):
        assert by_name[name].parent_id == asked.span_id
    batch = by_name["predictor.batch"]
    assert batch.parent_id == by_name["predictor.score"].span_id
    below = {span.name for span in spans if span.parent_id == batch.span_id}
    assert {"image_tower", "text_tower", "heads", "ngram", "ensemble"} <= below
    assert upload.attributes["tidegate.tier"] == first.json()["tier"]
    said = " ".join(str(span.attributes) for span in spans)
    assert "bicycle" not in said
    assert "seller" not in said

    collector.stop()
    for _ in range(5):
        answer = _upload(gateway)
        assert answer.status_code == 200
        assert len(answer.json()["trace_id"]) == 32
    assert _upload(gateway, traceparent=f"00-{'a' * 32}-{PARENT}-00").json()["trace_id"] == "a" * 32
